"""Seed files: reading, formats and hub datasets."""
