"""Training rows: reading, templates and tokens."""
