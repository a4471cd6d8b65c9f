"""Rounds of new samples: generation in candidate order, quotas and deduplication."""
