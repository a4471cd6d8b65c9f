"""What a program can decide about an answer without a model: its form, its arithmetic, its final value."""
