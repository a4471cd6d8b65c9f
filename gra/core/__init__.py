"""The nouns, the strict recipe, the ledger and the manifest: everything else stands on these."""
