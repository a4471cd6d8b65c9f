"""What a recipe will cost, before it is spent: `gra plan`."""
