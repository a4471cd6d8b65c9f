"""Recipes: strict YAML loading and one module per recipe section."""
