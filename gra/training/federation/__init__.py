"""Train one adapter on the rows of several owners, of which only adapters, row counts and metrics leave their place."""
