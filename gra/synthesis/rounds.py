"""A round: stories in flight, decided in candidate order, until enough rows are accepted.

Stories finish in any order, but whatever depends on other candidates (dedup, "stop at N accepted") is
decided over the shortest prefix of candidates that yields N rows, so concurrency never changes the
dataset. Admission narrows towards the end, so that little is left over.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gra.core.errors import BudgetExhausted
from gra.core.ledger import Ledger
from gra.core.manifest import digest
from gra.core.records import Candidate, Seed, State
from gra.data.dedup import Embedder, Matrix, greedy_dedup
from gra.engines.broker import Broker
from gra.synthesis.story import Pool, Setting, candidate_id, live

OnEnd = Callable[[Candidate], None]


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
        self._scope = digest([setting.fingerprint, [[s.id for s in samples] for samples in pool.values()]])
        self._ended: dict[int, Candidate] = {}
        self._vectors: dict[int, Matrix] = {}
        self._pool_vectors: Matrix | None = None
        self._too_few = setting.recipe.rounds.accept - 1  # passed candidates that are known not to fill the round

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
            while not stopped and admitted < rounds.max_candidates and len(running) < self._room():
                try:
                    self._broker.check_budget()
                except BudgetExhausted:
                    if admitted >= self._begun_before:
                        stopped = "budget"
                        break
                running[asyncio.create_task(self._story(admitted))] = admitted
                admitted += 1
            if not running:
                break
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = running.pop(task)
                self._ended[index] = task.result()
                on_end(self._ended[index])
            if not stopped and await self._enough():
                stopped = "enough accepted"
        return stopped or "candidate limit"

    @cached_property
    def _begun_before(self) -> int:
        """How many candidates were begun before a restart: what is paid for in part may finish."""
        first, end = candidate_id(self._number, 0), candidate_id(self._number, 999_999)
        last = self._ledger.last_candidate(first, end)
        return 0 if last is None else int(last.removeprefix(f"r{self._number}-")) + 1

    async def _story(self, index: int) -> Candidate:
        """A story's end: as recorded, or told now and recorded."""
        recorded = self._ledger.story(candidate_id(self._number, index), self._scope)
        if recorded is not None:
            return Candidate.from_json(recorded)
        candidate = await live(self._setting, self._broker, self._pool, self._number, index)
        await self._ledger.conclude(candidate.id, candidate.to_json(), self._scope)
        return candidate

    def _room(self) -> int:
        """How many stories may be in flight: fewer when nearly enough rows are accepted."""
        accepted = sum(c.state is State.ACCEPTED for c in self._ended.values())
        # The rate is taken where all have ended: what ends soonest is mostly rejected.
        prefix = self._prefix()
        rate = (len(self._passed(prefix)) + 1) / (prefix + 2)
        wanted = math.ceil((self._setting.recipe.rounds.accept - accepted) / rate)
        return max(1, min(self._in_flight, wanted))

    def _passed(self, upto: int) -> list[int]:
        return [i for i in range(upto) if self._ended[i].state is State.ACCEPTED]

    def _prefix(self) -> int:
        """How many candidates, from the first on without a gap, have ended."""
        count = 0
        while count in self._ended:
            count += 1
        return count

    async def _enough(self) -> bool:
        return await self._shortest_prefix() is not None

    async def _shortest_prefix(self) -> int | None:
        """The smallest number of candidates whose deduplicated rows fill the round, if there is one yet."""
        passed = self._passed(self._prefix())
        for count in range(self._too_few + 1, len(passed) + 1):
            if sum((await self._dedup(passed[:count])).values()) >= self._setting.recipe.rounds.accept:
                return passed[count - 1] + 1
            self._too_few = count
        return None

    async def _dedup(self, indices: Sequence[int]) -> dict[int, bool]:
        return {i: c.state is State.ACCEPTED for i, c in (await self._deduplicated(indices)).items()}

    async def _deduplicated(self, indices: Sequence[int]) -> dict[int, Candidate]:
        """Accepted candidates with duplicates marked, by greedy dedup in descending mean score."""
        if not indices:
            return {}
        await self._embed(indices)
        assert self._pool_vectors is not None
        chosen = [self._ended[i] for i in indices]
        scores = [10.0 if c.mean is None else c.mean for c in chosen]
        vectors = np.stack([self._vectors[i] for i in indices])
        threshold = self._setting.recipe.dedup.threshold
        decisions = greedy_dedup(vectors, scores, self._pool_vectors, threshold)
        pooled = [sample.id for samples in self._pool.values() for sample in samples]
        out = {}
        for i, candidate, decision in zip(indices, chosen, decisions, strict=True):
            near = decision.neighbour
            name = "" if near is None else (pooled[-1 - near] if near < 0 else chosen[near].id)
            marked = replace(candidate, neighbour=name, similarity=decision.similarity)
            if not decision.kept:
                marked = replace(marked, state=State.DUPLICATE, reason=f"too similar to {name}")
            out[i] = marked
        return out

    async def _embed(self, indices: Sequence[int]) -> None:
        kind = self._setting.recipe.dedup.text
        if self._pool_vectors is None:
            texts = [_text(s.instruction, s.response, kind) for samples in self._pool.values() for s in samples]
            self._pool_vectors = await asyncio.to_thread(self._embedder.encode, texts)
        new = [i for i in indices if i not in self._vectors]
        if new:
            texts = [_text(self._ended[i].instruction, self._ended[i].response, kind) for i in new]
            vectors = await asyncio.to_thread(self._embedder.encode, texts)
            self._vectors |= dict(zip(new, vectors, strict=True))

    async def _settle(self, stopped: str) -> RoundResult:
        """Final states: rows within the prefix, duplicates, and what was accepted beyond it."""
        # A story in flight may have filled a gap, so the prefix is looked for once more.
        prefix = await self._shortest_prefix()
        last = prefix if prefix is not None else max(self._ended, default=-1) + 1
        final = dict(self._ended)
        final |= await self._deduplicated([i for i in sorted(final) if i < last and final[i].state is State.ACCEPTED])
        kept = [i for i in sorted(final) if final[i].state is State.ACCEPTED]
        for i in kept[self._setting.recipe.rounds.accept :]:
            final[i] = replace(final[i], state=State.SURPLUS, reason="accepted after the round was full")
        return RoundResult([final[i] for i in sorted(final)], stopped)


def _text(instruction: str, response: str, kind: str) -> str:
    return instruction if kind == "instruction" else f"{instruction}\n{response}"


def grow(pool: Pool, samples: Sequence[Seed]) -> dict[str, list[Seed]]:
    """A new pool with the samples added to their domains."""
    grown = {domain: list(members) for domain, members in pool.items()}
    for sample in samples:
        grown.setdefault(sample.domain, []).append(sample)
    return grown
