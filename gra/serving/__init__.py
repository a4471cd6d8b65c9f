"""Model serving: resolve models, plan memory, build engines."""
