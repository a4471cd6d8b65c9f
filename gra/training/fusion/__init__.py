"""Fuse the next-token distributions of several teachers with other vocabularies (FuseLLM, arXiv 2401.10491)."""
