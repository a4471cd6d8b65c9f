"""Which model is resident, and which call is next."""
