"""Deduplicate the accepted candidates of one round (section 3.4), and find the candidate that fills the round.

Candidates arrive one by one while the round runs, and `IncrementalDedup` follows them. When the round has ended, greedy
deduplication in descending score decides every candidate once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from gra.config.synthesis import SynthesisRecipe
from gra.core.types import Seed, State
from gra.core.vocabulary import RejectedAt
from gra.data.dedup.greedy import Decision, DedupTexts, greedy_dedup
from gra.data.dedup.incremental import IncrementalDedup
from gra.data.dedup.nearest import Matrix
from gra.data.dedup.vectors import VectorFile
from gra.data.embedder import Embedder
from gra.synthesis.records import Disposition, FinishedCandidate
from gra.synthesis.rounds.quotas import Quotas

_EMBED = 4096  # texts embedded at a time
# Larger rounds do not look up the nearest neighbor of kept rows. The lookup compares all rows with all others: a minute
# for 100,000 rows on two cores, an hour for a million, five times what the decisions take.
_NEIGHBOURS_UP_TO = 100_000
_STEPS = {
    "text": RejectedAt.SAME_TEXT,
    "wording": RejectedAt.SAME_WORDING,
    "embedding": RejectedAt.SAME_EMBEDDING,
}
DUPLICATE_OF = {
    RejectedAt.SAME_TEXT: "same text as",
    RejectedAt.SAME_WORDING: "nearly the wording of",
    RejectedAt.SAME_EMBEDDING: "too similar to",
}


class RoundDedup:
    """The accepted candidates of one round and the pool they are compared with.

    Attributes:
        passed: candidates that the gate accepted, in candidate order, without a gap.
        copies: how many of them count as the same as others, by domain, as far as they were compared yet.
    """

    def __init__(
        self, recipe: SynthesisRecipe, pool: Sequence[Seed], embedder: Embedder, folder: Path, quotas: Quotas
    ) -> None:
        """Prepare deduplication of a round.

        Args:
            recipe: the arm's recipe.
            pool: every sample of the pool.
            embedder: turns texts into vectors.
            folder: where the file of vectors goes.
            quotas: the rows that the round wants.
        """
        self.passed: list[FinishedCandidate] = []
        self.copies: Counter[str] = Counter()
        self._dedup = recipe.dedup
        self._accept = recipe.rounds.accept
        self._pool = pool
        self._embedder = embedder
        self._folder = folder
        self._quotas = quotas
        self._pool_vectors: Matrix | None = None
        self._vectors: VectorFile | None = None  # of the first candidates in `passed`
        self._incremental: IncrementalDedup | None = None
        self._arrived = 0  # how many candidates of `passed` the incremental deduplication has seen
        self._full: int | None = None

    def text(self, instruction: str, response: str) -> str:
        """Return what is compared of a sample."""
        return instruction if self._dedup.text == "instruction" else f"{instruction}\n{response}"

    async def shortest_prefix(self) -> int | None:
        """Return the smallest number of candidates whose rows fill the round, or None while no number does."""
        if self._full is None and len(self.passed) >= max(self._accept, self._arrived + 1):
            pool, vectors = await self._embed(len(self.passed))
            if self._incremental is None:
                self._incremental = IncrementalDedup(pool, self._pool_texts, self._dedup.threshold, self._dedup.minhash)
            mapped = vectors.mapped(len(self.passed))
            self._full = await asyncio.to_thread(self._filled_by, self._incremental, mapped)
        return self._full

    def _filled_by(self, incremental: IncrementalDedup, vectors: Matrix) -> int | None:
        """Add the new candidates in order; return the length of the prefix that fills the round."""
        new = self.passed[self._arrived :]
        self._arrived += len(new)
        kept_after_each = incremental.arrive(vectors, [c.score for c in new], [c.text for c in new])
        for last, kept in zip(new, kept_after_each, strict=True):
            if kept.sum() < self._accept:
                continue
            domains = Counter(self.passed[row].domain for row in np.flatnonzero(kept).tolist())
            if not self._quotas.missing(domains):
                return last.index + 1
        self.copies = Counter(self.passed[row].domain for row in np.flatnonzero(~kept).tolist())
        return None

    async def decide(self, prefix: int, *, nearest: bool) -> list[Decision]:
        """Deduplicate the accepted candidates among the first `prefix` candidates, greedily in descending score.

        Args:
            prefix: how many candidates of the round count.
            nearest: whether to look up the most similar sample of kept rows too.
        """
        passed = [candidate for candidate in self.passed if candidate.index < prefix]
        if not passed:
            return []
        pool, vectors = await self._embed(len(passed))
        return await asyncio.to_thread(
            greedy_dedup,
            vectors.read(len(passed)),
            [c.score for c in passed],
            pool,
            self._dedup.threshold,
            texts=DedupTexts([c.text for c in passed], self._pool_texts, self._dedup.minhash),
            neighbours=nearest and len(passed) <= _NEIGHBOURS_UP_TO,
        )

    async def kept_by_domain(self, prefix: int) -> Counter[str]:
        """Count the rows among the first `prefix` candidates, by domain."""
        decisions = await self.decide(prefix, nearest=False)
        return Counter(c.domain for c, d in zip(self.passed, decisions, strict=False) if d.kept)

    async def dispositions(self, prefix: int) -> tuple[dict[str, Disposition], Counter[str]]:
        """Decide the round.

        Args:
            prefix: how many candidates the round has.

        Returns:
            The disposition of each candidate that the gate accepted, by id; and the rows by domain.
        """
        decisions = await self.decide(prefix, nearest=True)
        self._vectors = self._incremental = None  # the largest objects in memory, and no longer needed
        passed = self.passed[: len(decisions)]
        surplus = self._quotas.surplus([c for c, decision in zip(passed, decisions, strict=True) if decision.kept])
        found: dict[str, Disposition] = {}
        rows: Counter[str] = Counter()
        for candidate, decision in zip(passed, decisions, strict=True):
            found[candidate.id] = disposition = self._disposition(decision, surplus.get(candidate.index, ""))
            rows[candidate.domain] += disposition.state is State.ACCEPTED
        return found, +rows

    def _disposition(self, decision: Decision, surplus: str) -> Disposition:
        near = decision.neighbour
        name = "" if near is None else (self._pool[-1 - near].id if near < 0 else self.passed[near].id)
        if decision.stage is not None:
            step = _STEPS[decision.stage]
            return Disposition(State.DUPLICATE, f"{DUPLICATE_OF[step]} {name}", name, decision.similarity, step)
        if surplus:
            return Disposition(State.SURPLUS, surplus, name, decision.similarity, RejectedAt.QUOTA)
        return Disposition(State.ACCEPTED, "", name, decision.similarity)

    async def _embed(self, count: int) -> tuple[Matrix, VectorFile]:
        """Return the vectors of the pool, shape (rows, dimensions), and of the first `count` candidates or more."""
        pool = await self.pool_vectors()
        while self._vectors is None or self._vectors.count < count:
            start = self._vectors.count if self._vectors else 0
            new = self.passed[start : min(count, start + _EMBED)]
            vectors = await asyncio.to_thread(self._embedder.encode, [candidate.text for candidate in new])
            if self._vectors is None:
                self._vectors = VectorFile(self._folder, vectors.shape[1])
            self._vectors.append(vectors)
        return pool, self._vectors

    async def pool_vectors(self) -> Matrix:
        """Return the vectors of the pool, shape (rows, dimensions)."""
        if self._pool_vectors is None:
            self._pool_vectors = await asyncio.to_thread(self._embedder.encode, self._pool_texts)
        return self._pool_vectors

    @cached_property
    def _pool_texts(self) -> list[str]:
        return [self.text(sample.instruction, sample.response) for sample in self._pool]
