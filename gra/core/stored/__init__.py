"""Files of a run folder that are read back: strict readers, and the types of the files."""
