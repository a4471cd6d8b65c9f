"""Trainer options, checked against the installed TRL."""
