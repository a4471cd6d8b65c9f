"""Data in and out: seeds, deduplication, benchmarks, export."""
