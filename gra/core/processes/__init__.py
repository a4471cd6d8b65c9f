"""Coroutines and child processes."""
