"""Deduplication of instructions by text, MinHash and embedding."""
