"""Types, errors, run folder, files, hashing, progress and random draws: all other packages import these."""
