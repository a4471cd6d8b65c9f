"""Texts of models and files: lines, display, thinking."""
