"""Let a teacher and a student make training rows for each other in rounds, `gra symbiosis RECIPE`."""
