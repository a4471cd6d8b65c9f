"""Statistics in pure NumPy."""
