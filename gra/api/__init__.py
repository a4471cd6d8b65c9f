"""The Python interface; its public names are imported from `gra` itself (docs/api.md)."""
