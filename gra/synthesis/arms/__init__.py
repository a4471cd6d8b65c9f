"""Arms of a comparison and how each is run."""
