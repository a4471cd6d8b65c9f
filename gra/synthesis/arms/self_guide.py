"""The `self_guide` arm: one model writes new samples in rounds; it reviews its own or none are reviewed."""

from __future__ import annotations

from gra.synthesis.arms.gra import make_candidates

__all__ = ["make_candidates"]
