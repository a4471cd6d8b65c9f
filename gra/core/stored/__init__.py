"""Read files of a run folder into values of known types."""
