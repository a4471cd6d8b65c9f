"""Where model weights come from, and how their tokenizers and chat templates are read."""
