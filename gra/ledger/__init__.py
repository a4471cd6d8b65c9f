"""The ledger of recorded answers, and the budget."""
