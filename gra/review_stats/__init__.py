"""Statistics of reviewers: pure NumPy, no I/O."""
