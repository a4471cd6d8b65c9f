"""A round: stories in flight, decided in candidate order, until enough rows are accepted.

Stories finish in any order, but whatever depends on other candidates (dedup, "stop at N accepted") is
decided over the shortest prefix of candidates that yields N rows (with quotas: N that fit them), so
concurrency never changes the dataset. Admission narrows towards the end, so that little is left over.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gra.core.errors import BudgetExhausted
from gra.core.ledger import Ledger
from gra.core.manifest import digest
from gra.core.records import Candidate, Seed, State
from gra.data.arrivals import Arrivals
from gra.data.dedup import Decision, Embedder, Texts, greedy_dedup
from gra.data.nearest import Matrix
from gra.engines.broker import Broker
from gra.synthesis.quotas import Quotas
from gra.synthesis.story import Pool, Setting, candidate_id, domain_in_turn, left, live

LEFT = "under way when the round was full"
_FIRST = 4  # stories at once at the start
OnEnd = Callable[[Candidate], None]
_SAME = {"text": "same text as", "wording": "nearly the wording of", "embedding": "too similar to"}


@dataclass(frozen=True)
class RoundResult:
    """Every candidate of the round in its final state, in candidate order, and why the round stopped."""

    candidates: list[Candidate]
    stopped: str  # "enough accepted" | "candidate limit" | "budget"

    @property
    def accepted(self) -> list[Candidate]:
        """The rows of the dataset."""
        return [candidate for candidate in self.candidates if candidate.state is State.ACCEPTED]


class Round:
    """One round of a run."""

    def __init__(
        self,
        setting: Setting,
        broker: Broker,
        ledger: Ledger,
        pool: Pool,
        embedder: Embedder,
        number: int,
        in_flight: int,
    ) -> None:
        self._setting = setting
        self._broker = broker
        self._ledger = ledger
        self._pool = pool
        self._embedder = embedder
        self._number = number
        self._in_flight = in_flight
        # A verdict counts again only under the same recipe, models, prompts and pool.
        told_from = setting.recipe.rounds.parents
        self._scope = digest([setting.fingerprint, told_from, [[s.id for s in samples] for samples in pool.values()]])
        self._ended: dict[int, Candidate] = {}
        self._prefix = 0  # how many candidates, from the first on without a gap, have ended
        self._passed: list[int] = []  # those of the prefix that the gate let through
        self._accepted: Counter[str] = Counter()  # all that the gate let through, by domain
        self._vectors: dict[int, Matrix] = {}
        self._pooled = [sample for samples in pool.values() for sample in samples]
        self._pool_vectors: Matrix | None = None
        self._arrivals: Arrivals | None = None
        self._looked_at = 0  # how many of the passed have arrived at dedup
        self._full: int | None = None  # the shortest prefix that fills the round
        self._quotas = Quotas(setting.recipe, number)

    async def run(self, on_end: OnEnd) -> RoundResult:
        """Tell stories until N are kept, the candidate limit is reached, or the budget is used up."""
        running: dict[asyncio.Task[Candidate], int] = {}
        try:
            stopped = await self._tell(running, on_end)
        finally:  # after an error no story may go on spending
            for story in running:
                story.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return await self._settle(stopped)

    async def _tell(self, running: dict[asyncio.Task[Candidate], int], on_end: OnEnd) -> str:
        """Admit and end stories; why it stopped."""
        rounds = self._setting.recipe.rounds
        admitted, stopped = 0, ""
        while not stopped or running:
            await self._plan(admitted)
            recalled = False
            while not stopped and admitted < rounds.max_candidates and len(running) < self._room():
                if not self._quotas.planned(admitted):
                    break
                try:
                    self._broker.check_budget()
                except BudgetExhausted:
                    if admitted >= self._begun_before:
                        # Those under way may take less than was set aside for them.
                        stopped = "" if running else "budget"
                        break
                recorded = self._recorded(admitted)
                if recorded is not None:
                    self._end(admitted, recorded, on_end)
                    recalled = True
                elif recalled:
                    break  # whether what is recorded fills the round is seen before anything is asked
                else:
                    self._broker.account.begin(candidate_id(self._number, admitted))
                    running[asyncio.create_task(self._story(admitted))] = admitted
                admitted += 1
            if not running and not recalled:
                break
            if running and not recalled:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._end(running.pop(task), task.result(), on_end)
            if not stopped and await self._shortest_prefix() is not None:
                stopped = "enough accepted"
                await self._leave(running)
        return stopped or "candidate limit"

    async def _leave(self, running: dict[asyncio.Task[Candidate], int]) -> None:
        """End the stories that a full round does not need; all of them stand after those that filled it."""
        for story in running:
            story.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for index in running.values():
            self._broker.account.end(candidate_id(self._number, index), told=False)
            domain = self._domain(index)
            self._ended[index] = left(self._setting, self._broker, self._pool, self._number, index, domain, LEFT)
        running.clear()

    @cached_property
    def _begun_before(self) -> int:
        """How many candidates were begun before a restart: what is paid for in part may finish."""
        first, end = candidate_id(self._number, 0), candidate_id(self._number, 999_999)
        last = self._ledger.last_candidate(first, end)
        return 0 if last is None else int(last.removeprefix(f"r{self._number}-")) + 1

    def _domain(self, index: int) -> str:
        return self._quotas.domain(index) or domain_in_turn(self._setting.recipe, self._pool, self._number, index)

    def _recorded(self, index: int) -> Candidate | None:
        """A story's end as an earlier start recorded it."""
        recorded = self._ledger.story(candidate_id(self._number, index), self._scope)
        if recorded is None or recorded["domain"] != self._domain(index):  # other quotas, other domains
            return None
        return Candidate.from_json(recorded)

    async def _story(self, index: int) -> Candidate:
        """A story told now to its end, and recorded."""
        domain = self._domain(index)
        candidate = await live(self._setting, self._broker, self._pool, self._number, index, domain)
        await self._ledger.conclude(candidate.id, candidate.to_json(), self._scope)
        return candidate

    def _end(self, index: int, candidate: Candidate, on_end: OnEnd) -> None:
        self._ended[index] = candidate
        self._broker.account.end(candidate.id)
        if candidate.state is State.ACCEPTED:
            self._accepted[candidate.domain] += 1
        while self._prefix in self._ended:
            if self._ended[self._prefix].state is State.ACCEPTED:
                self._passed.append(self._prefix)
            self._prefix += 1
        on_end(candidate)

    async def _plan(self, admitted: int) -> None:
        """Which domains the next candidates are for, as soon as those are known that decide it."""
        while not self._quotas.planned(admitted) and self._prefix >= self._quotas.needs:
            kept = await self._deduplicated([i for i in self._passed if i < self._quotas.needs])
            told = [self._ended[i] for i in range(self._quotas.needs)]
            self._quotas.plan(told, [c for c in kept.values() if c.state is State.ACCEPTED])

    def _room(self) -> int:
        """How many stories may be in flight."""
        missing = self._quotas.missing(self._accepted)
        return min(self._in_flight, admission(missing, len(self._passed), self._prefix, len(self._ended)))

    async def _shortest_prefix(self) -> int | None:
        """The smallest number of candidates whose deduplicated rows fill the round, if there is one yet."""
        if self._full is None and len(self._passed) >= self._setting.recipe.rounds.accept:
            new = self._passed[self._looked_at :]
            self._looked_at += len(new)
            self._full = await self._arrive(new) if new else None
        return self._full

    async def _arrive(self, new: Sequence[int]) -> int | None:
        """Let some candidates, which come in candidate order, arrive at dedup; the prefix that fills the round."""
        pool_vectors = await self._embed(new)
        if self._arrivals is None:
            dedup = self._setting.recipe.dedup
            self._arrivals = Arrivals(pool_vectors, self._pool_texts, dedup.threshold, dedup.likeness)
        return await asyncio.to_thread(self._filled_by, self._arrivals, new)

    def _filled_by(self, arrivals: Arrivals, new: Sequence[int]) -> int | None:
        for index, kept in zip(new, arrivals.arrive(*self._rows(new)), strict=True):
            if kept.sum() < self._setting.recipe.rounds.accept:
                continue
            domains = Counter(self._ended[self._passed[row]].domain for row in np.flatnonzero(kept).tolist())
            if not self._quotas.missing(domains):
                return index + 1
        return None

    async def _deduplicated(self, indices: Sequence[int]) -> dict[int, Candidate]:
        """Accepted candidates with duplicates marked, by greedy dedup in descending mean score."""
        if not indices:
            return {}
        pool_vectors = await self._embed(indices)
        vectors, scores, texts = self._rows(indices)
        dedup = self._setting.recipe.dedup
        said = Texts(texts, self._pool_texts, dedup.likeness)
        decisions = await asyncio.to_thread(greedy_dedup, vectors, scores, pool_vectors, dedup.threshold, texts=said)
        names = [self._ended[i].id for i in indices]
        return {i: self._marked(i, decision, names) for i, decision in zip(indices, decisions, strict=True)}

    def _marked(self, index: int, decision: Decision, names: Sequence[str]) -> Candidate:
        near = decision.neighbour
        name = "" if near is None else (self._pooled[-1 - near].id if near < 0 else names[near])
        marked = replace(self._ended[index], neighbour=name, similarity=decision.similarity)
        if decision.stage is None:
            return marked
        return replace(marked, state=State.DUPLICATE, reason=f"{_SAME[decision.stage]} {name}")

    def _rows(self, indices: Sequence[int]) -> tuple[Matrix, list[float], list[str]]:
        """Vectors, scores and texts of candidates that are embedded already."""
        chosen = [self._ended[i] for i in indices]
        scores = [10.0 if c.mean is None else c.mean for c in chosen]
        return np.stack([self._vectors[i] for i in indices]), scores, [self._text(c) for c in chosen]

    async def _embed(self, indices: Sequence[int]) -> Matrix:
        """Embed what is not embedded yet; the pool's vectors, shape (pool, dimensions)."""
        if self._pool_vectors is None:
            self._pool_vectors = await asyncio.to_thread(self._embedder.encode, self._pool_texts)
        new = [i for i in indices if i not in self._vectors]
        if new:
            vectors = await asyncio.to_thread(self._embedder.encode, [self._text(self._ended[i]) for i in new])
            self._vectors |= dict(zip(new, vectors, strict=True))
        return self._pool_vectors

    @cached_property
    def _pool_texts(self) -> list[str]:
        return [self._text(sample) for sample in self._pooled]

    def _text(self, sample: Seed | Candidate) -> str:
        """What dedup compares."""
        if self._setting.recipe.dedup.text == "instruction":
            return sample.instruction
        return f"{sample.instruction}\n{sample.response}"

    async def _settle(self, stopped: str) -> RoundResult:
        """Final states: rows within the prefix, duplicates, and what was accepted beyond it."""
        # A story in flight may have filled a gap, so the prefix is looked for once more.
        prefix = await self._shortest_prefix()
        last = prefix if prefix is not None else max(self._ended, default=-1) + 1
        final = dict(self._ended)
        final |= await self._deduplicated([i for i in sorted(final) if i < last and final[i].state is State.ACCEPTED])
        kept = [final[i] for i in sorted(final) if final[i].state is State.ACCEPTED]
        for i, reason in self._quotas.surplus(kept).items():
            final[i] = replace(final[i], state=State.SURPLUS, reason=reason)
        return RoundResult([final[i] for i in sorted(final)], stopped)


def admission(missing: int, passed: int, prefix: int, ended: int) -> int:
    """How many stories may be in flight, as many as engines take: fewer when nearly enough rows are accepted.

    Args:
        missing: the rows that the round still lacks.
        passed: how many of the prefix the gate let through.
        prefix: how many candidates have ended from the first on without a gap.
        ended: how many have ended at all.
    """
    # The rate is taken where all have ended: what ends soonest is mostly rejected.
    rate = (passed + 2) / (prefix + 4)
    # The first few go ahead alone: a person sees a row early, or why there is none, before much is spent.
    return max(1, min(math.ceil(missing / rate), _FIRST + 12 * ended))


def grow(pool: Pool, samples: Sequence[Seed]) -> dict[str, list[Seed]]:
    """A new pool with the samples added to their domains."""
    grown = {domain: list(members) for domain, members in pool.items()}
    for sample in samples:
        grown.setdefault(sample.domain, []).append(sample)
    return grown
