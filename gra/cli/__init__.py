"""Command lines: the `gra` verbs and the entry scripts."""
