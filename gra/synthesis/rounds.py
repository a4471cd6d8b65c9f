"""A round: stories in flight, decided in candidate order, until enough rows are accepted.

Stories finish in any order, but whatever depends on other candidates (dedup, "stop at N accepted") is
decided over the shortest prefix of candidates that yields N rows (with quotas: N that fit them), and a round is
that prefix: neither concurrency nor a restart changes its dataset or its lineage. What was begun beyond it is
counted, and what was answered there stays in the ledger. Admission narrows towards the end, so that this is little.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gra.core.errors import BudgetExhausted
from gra.core.hashing import digest
from gra.core.types import Candidate, Seed, State
from gra.data.dedup.greedy import Decision, DedupTexts, greedy_dedup
from gra.data.dedup.incremental import IncrementalDedup
from gra.data.dedup.nearest import Matrix
from gra.data.dedup.vectors import VectorFile
from gra.data.embedder import Embedder
from gra.engines.broker import Broker
from gra.ledger.ledger import Ledger
from gra.synthesis.candidate import CandidateSettings, Pool, candidate_id, domain_in_turn, eligible, generate_candidate
from gra.synthesis.quotas import Quotas
from gra.synthesis.records import Disposition, FinishedCandidate, RecordedCandidates

_FIRST = 4  # stories at once at the start
_EMBED = 4096  # texts embedded at a time
# In a larger round nobody is told what a kept row is nearest to: that takes the products of all rows with all, on two
# cores a minute for 100,000 rows and most of an hour for a million, five times and more what the decisions alone take.
_NEIGHBOURS_UP_TO = 100_000
OnEnd = Callable[[Candidate, bool], None]  # a candidate that ended, and whether an earlier start had recorded it
_SAME = {"text": "same text as", "wording": "nearly the wording of", "embedding": "too similar to"}


@dataclass(frozen=True)
class RoundResult:
    """Every candidate of the round in its final state, in candidate order, and how the round ended."""

    candidates: RecordedCandidates
    stopped: str  # "enough accepted" | "candidate limit" | "budget"
    rows: Counter[str]  # accepted, by domain
    beyond: int  # candidates begun after the one that filled the round


class Round:
    """One round of a run."""

    def __init__(
        self,
        settings: CandidateSettings,
        broker: Broker,
        ledger: Ledger,
        pool: Pool,
        embedder: Embedder,
        number: int,
        in_flight: int,
    ) -> None:
        self._setting = settings
        self._broker = broker
        self._ledger = ledger
        self._parents = eligible(pool)
        self._embedder = embedder
        self._number = number
        self._in_flight = in_flight
        # A verdict counts again only under the same recipe, models, prompts and pool.
        told_from = settings.recipe.rounds.parents
        self._scope = digest([settings.fingerprint, told_from, [[s.id for s in samples] for samples in pool.values()]])
        self._admitted = 0
        self._ended = 0
        self._prefix = 0  # how many candidates, from the first on without a gap, have ended
        self._early: dict[int, FinishedCandidate] = {}  # those that ended while one before them had not
        self._passed: list[FinishedCandidate] = []  # those of the prefix that the gate let through
        self._accepted: Counter[str] = Counter()  # all that the gate let through, by domain
        self._pooled = [sample for samples in pool.values() for sample in samples]
        self._pool_vectors: Matrix | None = None
        self._shelf: VectorFile | None = None  # vectors of those that passed, as far as they are embedded
        self._arrivals: IncrementalDedup | None = None
        self._arrived = 0  # how many of those that passed have arrived at dedup
        self._full: int | None = None  # the shortest prefix that fills the round
        self._quotas = Quotas(settings.recipe, number)
        self._since = 0  # the newest answer in the ledger when the round was first begun

    async def run(self, on_end: OnEnd) -> RoundResult:
        """Tell stories until N are kept, the candidate limit is reached, or the budget is used up.

        A round that ended in an earlier start is not decided again; its candidates are only told of.
        """
        rounds, dedup = self._setting.recipe.rounds, self._setting.recipe.dedup
        asked = [rounds.model_dump(exclude={"count"}), dedup.model_dump()]
        name, scope = f"round-{self._number}", digest([self._scope, asked])
        recorded = self._ledger.candidate_record(name, scope)
        if recorded and "stopped" in recorded:
            result = self._result(recorded)
            for candidate in result.candidates:
                on_end(candidate, True)
            return result
        if recorded is None:
            # From here on verdicts are replaced: what another recipe's run of this name had found no longer holds.
            recorded = {"since": self._ledger.last_answer()}
            await self._ledger.conclude(name, recorded, scope)
        self._since = recorded.get("since", 0)
        found = await self._settle(await self._tell_all(on_end))
        if found["stopped"] != "budget":  # with a larger one it goes on
            await self._ledger.conclude(name, found, scope)
        return self._result(found)

    async def _tell_all(self, on_end: OnEnd) -> str:
        running: dict[asyncio.Task[Candidate], int] = {}
        try:
            return await self._tell(running, on_end)
        finally:  # after an error, or when the round is full, no story may go on spending
            for story in running:
                story.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for index in running.values():
                self._broker.account.end(candidate_id(self._number, index), told=False)

    async def _tell(self, running: dict[asyncio.Task[Candidate], int], on_end: OnEnd) -> str:
        """Admit and end stories; why it stopped."""
        limit = self._setting.recipe.rounds.max_candidates
        done: asyncio.Queue[asyncio.Task[Candidate]] = asyncio.Queue()
        stopped = ""
        while not stopped or running:
            await self._plan()
            recalled = False
            while not stopped and self._admitted < limit and len(running) < self._room():
                if not self._quotas.planned(self._admitted):
                    break
                recorded = self._recorded(self._admitted)
                if recorded is not None:
                    self._end(recorded)
                    on_end(recorded, True)
                    recalled = True
                elif recalled:
                    break  # whether what is recorded fills the round is seen before anything is asked
                elif self._spent():
                    # Those under way may take less than was set aside for them.
                    stopped = "" if running else "budget"
                    break
                else:
                    self._broker.account.begin(candidate_id(self._number, self._admitted))
                    story = asyncio.create_task(self._story(self._admitted))
                    story.add_done_callback(done.put_nowait)
                    running[story] = self._admitted
                self._admitted += 1
            if not running and not recalled:
                break
            if running and not recalled:
                ended = [await done.get()]
                while not done.empty():
                    ended.append(done.get_nowait())
                for story in ended:
                    del running[story]
                    self._end(story.result())
                    on_end(story.result(), False)
            if not stopped and await self._shortest_prefix() is not None:
                return "enough accepted"
        return stopped or "candidate limit"

    def _spent(self) -> bool:
        """Whether a cap leaves no room for another now; what was begun before a restart may finish."""
        try:
            self._broker.check_budget()
        except BudgetExhausted:
            return self._admitted >= self._begun_before
        return False

    @cached_property
    def _begun_before(self) -> int:
        """How many candidates this very round began before a restart: what is paid for in part may finish."""
        first, end = candidate_id(self._number, 0), candidate_id(self._number, 999_999)
        last = self._ledger.last_candidate(first, end, self._since)
        return 0 if last is None else int(last.removeprefix(f"r{self._number}-")) + 1

    def _domain(self, index: int) -> str:
        return self._quotas.domain(index) or domain_in_turn(self._setting.recipe, self._parents, self._number, index)

    def _recorded(self, index: int) -> Candidate | None:
        """A story's end as an earlier start recorded it."""
        recorded = self._ledger.candidate_record(candidate_id(self._number, index), self._scope)
        if recorded is None or recorded["domain"] != self._domain(index):  # other quotas, other domains
            return None
        return Candidate.from_json(recorded)

    async def _story(self, index: int) -> Candidate:
        """A story told now to its end, and recorded."""
        domain = self._domain(index)
        candidate = await generate_candidate(self._setting, self._broker, self._parents, self._number, index, domain)
        await self._ledger.conclude(candidate.id, candidate.to_json(), self._scope)
        return candidate

    def _end(self, candidate: Candidate) -> None:
        """Take note of a story's end, and of no more of it than decisions need."""
        state = candidate.state
        score = 10.0 if candidate.mean is None else candidate.mean
        text = self._text(candidate.instruction, candidate.response) if state is State.ACCEPTED else ""
        self._ended += 1
        self._broker.account.end(candidate.id)
        if state is State.ACCEPTED:
            self._accepted[candidate.domain] += 1
        self._early[candidate.index] = FinishedCandidate(
            candidate.id, candidate.index, candidate.domain, state, score, text
        )
        while (first := self._early.pop(self._prefix, None)) is not None:
            if first.state is State.ACCEPTED:
                self._passed.append(first)
            self._prefix += 1

    async def _plan(self) -> None:
        """Which domains the next candidates are for, as soon as those are known that decide it."""
        while not self._quotas.planned(self._admitted) and self._prefix >= self._quotas.needs:
            decisions = await self._deduplicated(self._quotas.needs, neighbours=False)
            self._quotas.plan(Counter(c.domain for c, d in zip(self._passed, decisions, strict=False) if d.kept))

    def _room(self) -> int:
        """How many stories may be in flight."""
        missing = self._quotas.missing(self._accepted)
        return min(self._in_flight, admission(missing, len(self._passed), self._prefix, self._ended))

    async def _shortest_prefix(self) -> int | None:
        """The smallest number of candidates whose deduplicated rows fill the round, if there is one yet."""
        if self._full is None and len(self._passed) >= max(self._setting.recipe.rounds.accept, self._arrived + 1):
            pool, shelf = await self._embed(len(self._passed))
            if self._arrivals is None:
                dedup = self._setting.recipe.dedup
                self._arrivals = IncrementalDedup(pool, self._pool_texts, dedup.threshold, dedup.minhash)
            self._full = await asyncio.to_thread(self._filled_by, self._arrivals, shelf.mapped(len(self._passed)))
        return self._full

    def _filled_by(self, arrivals: IncrementalDedup, vectors: Matrix) -> int | None:
        """Let those that passed since the last time arrive at dedup, in order; the prefix that fills the round."""
        new = self._passed[self._arrived :]
        self._arrived += len(new)
        books = arrivals.arrive(vectors, [c.score for c in new], [c.text for c in new])
        for last, kept in zip(new, books, strict=True):
            if kept.sum() < self._setting.recipe.rounds.accept:
                continue
            domains = Counter(self._passed[row].domain for row in np.flatnonzero(kept).tolist())
            if not self._quotas.missing(domains):
                return last.index + 1
        return None

    async def _deduplicated(self, prefix: int, *, neighbours: bool) -> list[Decision]:
        """Greedy dedup, in descending score, of those among the first `prefix` candidates that passed the gate."""
        passed = [candidate for candidate in self._passed if candidate.index < prefix]
        if not passed:
            return []
        pool, shelf = await self._embed(len(passed))
        dedup = self._setting.recipe.dedup
        said = DedupTexts([c.text for c in passed], self._pool_texts, dedup.minhash)
        scores = [c.score for c in passed]
        return await asyncio.to_thread(
            greedy_dedup,
            shelf.read(len(passed)),
            scores,
            pool,
            dedup.threshold,
            texts=said,
            neighbours=neighbours and len(passed) <= _NEIGHBOURS_UP_TO,
        )

    async def _embed(self, count: int) -> tuple[Matrix, VectorFile]:
        """The vectors of the pool, shape (rows, dimensions), and those of the first `count` that passed or more."""
        if self._pool_vectors is None:
            self._pool_vectors = await asyncio.to_thread(self._embedder.encode, self._pool_texts)
        while self._shelf is None or self._shelf.count < count:
            start = self._shelf.count if self._shelf else 0
            new = self._passed[start : min(count, start + _EMBED)]
            found = await asyncio.to_thread(self._embedder.encode, [candidate.text for candidate in new])
            if self._shelf is None:
                self._shelf = VectorFile(self._ledger.path.parent, found.shape[1])
            self._shelf.append(found)
        return self._pool_vectors, self._shelf

    @cached_property
    def _pool_texts(self) -> list[str]:
        return [self._text(sample.instruction, sample.response) for sample in self._pooled]

    def _text(self, instruction: str, response: str) -> str:
        """What dedup compares."""
        return instruction if self._setting.recipe.dedup.text == "instruction" else f"{instruction}\n{response}"

    async def _settle(self, stopped: str) -> dict[str, Any]:
        """How the round ended, as plain values: its length, and what became of each candidate that passed the gate."""
        # The last stories of a spent budget may have filled it.
        full = await self._shortest_prefix()
        last = self._prefix if full is None else full
        decisions = await self._deduplicated(last, neighbours=True)
        self._shelf = self._arrivals = None  # the largest thing in memory, and no longer needed
        passed = self._passed[: len(decisions)]
        surplus = self._quotas.surplus([c for c, decision in zip(passed, decisions, strict=True) if decision.kept])
        settled, rows = {}, Counter[str]()
        for candidate, decision in zip(passed, decisions, strict=True):
            settled[candidate.id] = found = self._settled(decision, surplus.get(candidate.index, ""))
            if found.state is State.ACCEPTED:
                rows[candidate.domain] += 1
        return {
            "stopped": stopped,
            "candidates": last,
            "beyond": self._admitted - last,
            "rows": rows,
            "settled": {name: astuple(found) for name, found in settled.items()},
        }

    def _result(self, found: Mapping[str, Any]) -> RoundResult:
        settled = {name: Disposition(State(state), *rest) for name, (state, *rest) in found["settled"].items()}
        names = [candidate_id(self._number, index) for index in range(found["candidates"])]
        told = RecordedCandidates(self._ledger, self._scope, names, settled)
        return RoundResult(told, found["stopped"], Counter(found["rows"]), found["beyond"])

    def _settled(self, decision: Decision, surplus: str) -> Disposition:
        near = decision.neighbour
        name = "" if near is None else (self._pooled[-1 - near].id if near < 0 else self._passed[near].id)
        if decision.stage is not None:
            return Disposition(State.DUPLICATE, f"{_SAME[decision.stage]} {name}", name, decision.similarity)
        return Disposition(State.SURPLUS if surplus else State.ACCEPTED, surplus, name, decision.similarity)


def admission(missing: int, passed: int, prefix: int, ended: int) -> int:
    """How many stories may be in flight, as many as engines take: fewer when nearly enough rows are accepted.

    Args:
        missing: the rows that the round still lacks.
        passed: how many of the prefix the gate let through.
        prefix: how many candidates have ended from the first on without a gap.
        ended: how many have ended at all.
    """
    # The rate is taken where all have ended: what ends soonest is mostly rejected.
    rate = (passed + 3) / (prefix + 4)
    # The first few go ahead alone: a person sees a row early, or why there is none, before much is spent.
    return max(1, min(math.ceil(missing / rate), _FIRST + 12 * ended))


def grow(pool: Pool, samples: Sequence[Seed]) -> dict[str, list[Seed]]:
    """A new pool with the samples added to their domains."""
    grown = {domain: list(members) for domain, members in pool.items()}
    for sample in samples:
        grown.setdefault(sample.domain, []).append(sample)
    return grown
