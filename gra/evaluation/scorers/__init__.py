"""Scorers: one module per task kind."""
