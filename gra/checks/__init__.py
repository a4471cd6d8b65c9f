"""Check answers without a model: their format, their arithmetic and their final value."""
