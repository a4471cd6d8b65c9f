"""Score answers: one module a kind of task, and the table of kinds in kinds.py."""
