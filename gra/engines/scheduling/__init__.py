"""Decide which model is resident, and which call is next."""
