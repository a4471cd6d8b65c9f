"""Benchmark catalog: download, read and convert items."""
