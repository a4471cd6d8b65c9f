"""Check trainer options against the installed TRL."""
