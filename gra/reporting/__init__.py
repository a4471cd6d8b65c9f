"""What a person reads after a run: the report page with its figures, and one candidate's whole story."""
