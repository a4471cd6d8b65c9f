"""The `distilled` arm with `teacher.writes: samples`: one teacher writes new samples in rounds, without review."""

from __future__ import annotations

from gra.synthesis.arms.gra import make_candidates

__all__ = ["make_candidates"]
