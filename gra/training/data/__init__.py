"""Read training rows, apply chat templates and tokenize."""
