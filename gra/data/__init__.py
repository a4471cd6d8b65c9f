"""Read seeds, find duplicates and contamination, and export datasets; benchmarks are in gra/evaluation/benchmarks."""
