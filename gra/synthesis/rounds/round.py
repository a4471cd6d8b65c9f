"""Run one round: generate candidates concurrently and decide them in candidate order (section 3.4).

Candidates end in any order. A round is the shortest prefix of candidates that yields enough rows within the quotas. So
neither concurrency nor a restart changes its dataset or lineage. Candidates begun beyond the prefix are counted, and
their answers stay in the ledger. Near the end of a round fewer candidates are begun, so that few lie beyond it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gra.core.errors import BudgetExhausted
from gra.core.hashing import digest
from gra.core.processes.concurrency import at_once
from gra.core.types import Candidate, Seed, State
from gra.core.vocabulary import FailureCause, RejectedAt, StopReason
from gra.data.embedder import Embedder
from gra.engines.broker import Broker
from gra.ledger.ledger import Ledger
from gra.synthesis.call_names import candidate_id, index_of
from gra.synthesis.candidate import CandidateSettings, generate_candidate
from gra.synthesis.records import Disposition, FinishedCandidate, RecordedCandidates
from gra.synthesis.rounds.dedup import RoundDedup
from gra.synthesis.rounds.parents import Pool, domain_in_turn, eligible, thin_weights
from gra.synthesis.rounds.quotas import ROUND_FULL, Quotas

# Keys of later releases. At their defaults they are in no digest, so that earlier verdicts count.
_LATER_KEYS = {"response_length", "siblings"}
_FIRST = 4  # candidates begun at once at the start of a round
# A round stops when twice as many candidates as are in flight have no answer in a row. One such wave may be a server
# that restarts.
_FAILED_WAVES = 2
_LAST_INDEX = 999_999
OnEnd = Callable[[Candidate, bool], None]  # a candidate that ended, and whether an earlier start had recorded it


@dataclass(frozen=True)
class RoundResult:
    """Hold the outcome of a round.

    Attributes:
        candidates: every candidate of the round in its final state, in candidate order.
        stopped: what ended the round.
        rows: accepted rows by domain.
        beyond: the number of candidates begun after the one that filled the round.
        unanswered: the number of candidates that infrastructure left without a verdict.
    """

    candidates: RecordedCandidates
    stopped: StopReason
    rows: Counter[str]
    beyond: int
    unanswered: int


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
        """Prepare a round.

        Args:
            settings: what all candidates of the run share.
            broker: answers the calls.
            ledger: holds verdicts of earlier starts, and takes new ones.
            pool: the samples of each domain that are parents or deduplicate.
            embedder: turns texts into vectors for deduplication.
            number: the round's number, from 1.
            in_flight: how many candidates may run at once.
        """
        self._settings = settings
        self._broker = broker
        self._ledger = ledger
        self._parents = eligible(pool, settings.recipe)
        self._number = number
        self._in_flight = in_flight
        # A recorded verdict counts only under the same recipe, models, prompts and pool.
        rounds = settings.recipe.rounds
        samples = [[sample.id for sample in samples] for samples in pool.values()]
        drawn = rounds.model_dump(include={"parents", "parent_count", "draw"})
        if rounds.draw == "thin":
            drawn |= settings.recipe.dedup.model_dump(include={"embedder", "text"})
        drawn |= rounds.model_dump(include=_LATER_KEYS, exclude_defaults=True)
        self._scope = digest([settings.fingerprint, drawn, samples])
        self._pooled = [sample for samples in pool.values() for sample in samples]
        self._embedder = embedder
        self._weights: dict[str, list[int]] = {}  # how often the samples of a domain become parents; empty: evenly
        self._since = 0  # the newest answer in the ledger when the round was first begun
        self.last_failure = ""  # why infrastructure left the last unanswered candidate without a verdict
        self._reset()

    def _reset(self) -> None:
        """Forget every candidate; the ledger has their verdicts."""
        recipe = self._settings.recipe
        self._admitted = 0
        self._ended = 0
        self._prefix = 0  # how many candidates have ended, counted from the first one without a gap
        self._early: dict[int, FinishedCandidate] = {}  # candidates that ended while an earlier one had not
        self._accepted: Counter[str] = Counter()  # candidates that the gate accepted, by domain
        self._unanswered: dict[int, Candidate] = {}  # candidates that infrastructure left without a verdict
        self._unanswered_in_a_row = 0
        self._quotas = Quotas(recipe, self._number)
        self._dedup = RoundDedup(recipe, self._pooled, self._embedder, self._ledger.path.parent, self._quotas)

    async def run(self, on_end: OnEnd) -> RoundResult:
        """Generate candidates until enough are accepted, or the candidate limit or the budget is reached.

        A round that ended in an earlier start is not decided again. Its unanswered candidates are asked again.

        Args:
            on_end: is called with each candidate that ended.
        """
        rounds, dedup = self._settings.recipe.rounds, self._settings.recipe.dedup
        asked = [rounds.model_dump(exclude={"count", *_LATER_KEYS}), dedup.model_dump()]  # these are in the scope
        name, scope = f"round-{self._number}", digest([self._scope, asked])
        recorded = self._ledger.candidate_record(name, scope)
        if recorded and "stopped" in recorded:
            result = self._result(recorded)
            # Rounds of release 0.1 did not count unanswered candidates.
            suspect = result.candidates if recorded.get("unanswered", 1) else ()
            unanswered = [candidate for candidate in suspect if is_unanswered(candidate)]
            if not unanswered or result.rows.total() >= rounds.accept:
                if unanswered:
                    recorded = await self._answer_late(recorded, unanswered)
                    await self._ledger.conclude(name, recorded, scope)
                    result = self._result(recorded)
                for candidate in result.candidates:
                    on_end(candidate, True)
                return result
        if recorded is None:
            # New verdicts replace those of another recipe of this name from here on.
            recorded = {"since": self._ledger.last_answer()}
            await self._ledger.conclude(name, recorded, scope)
        self._since = recorded.get("since", 0)
        await self._weigh_parents()
        found = await self._decide(await self._run_passes(on_end))
        if found["stopped"] not in (StopReason.BUDGET, StopReason.INFRASTRUCTURE):  # the next start continues these
            await self._ledger.conclude(name, found, scope)
        return self._result(found)

    async def _answer_late(self, recorded: Mapping[str, Any], unanswered: Sequence[Candidate]) -> dict[str, Any]:
        """Ask the unanswered candidates of a full round again; an accepted one is surplus, as the round is full."""
        await self._weigh_parents()
        settled, left = dict(recorded["settled"]), [candidate.index for candidate in unanswered]
        free = asyncio.Semaphore(self._in_flight)

        async def again(candidate: Candidate) -> None:
            async with free:
                try:
                    await self._broker.account.admit(candidate.id)
                except BudgetExhausted:
                    return
                ended = await self._generate(candidate.index, candidate.domain)
                self._broker.account.end(candidate.id)
            if is_unanswered(ended):
                self.last_failure = ended.reason
            else:
                left.remove(ended.index)
            if ended.state is State.ACCEPTED:
                surplus = Disposition(State.SURPLUS, ROUND_FULL, "", None, RejectedAt.QUOTA)
                settled[candidate.id] = surplus.to_json()

        await at_once(*map(again, unanswered))
        return {**recorded, "settled": settled, "unanswered": len(left)}

    async def _weigh_parents(self) -> None:
        """Find how often each sample becomes a parent, where the recipe prefers thin regions (`draw: thin`)."""
        if self._settings.recipe.rounds.draw == "uniform":
            return
        vectors = await self._dedup.pool_vectors()
        rows = {sample.id: row for row, sample in enumerate(self._pooled)}
        for domain, samples in self._parents.items():
            own = vectors[[rows[sample.id] for sample in samples]]
            self._weights[domain] = await asyncio.to_thread(thin_weights, own)

    async def _run_passes(self, on_end: OnEnd) -> StopReason:
        """Run the candidates; ask unanswered ones of a short round again as long as that leaves fewer of them."""
        asked: Mapping[int, Candidate] | None = None  # None: all candidates

        def report(candidate: Candidate, recorded: bool) -> None:
            if not is_unanswered(candidate) and (asked is None or candidate.index in asked):
                on_end(candidate, recorded)

        while True:
            stopped = await self._run_all(report)
            left = self._unanswered
            fewer = asked is None or len(left) < len(asked)
            if stopped is not StopReason.CANDIDATE_LIMIT or not left or not fewer:
                for candidate in left.values():
                    on_end(candidate, False)
                return stopped
            asked = left
            self._reset()

    async def _run_all(self, on_end: OnEnd) -> StopReason:
        running: dict[asyncio.Task[Candidate], int] = {}
        try:
            return await self._admit_and_end(running, on_end)
        finally:  # after an error, or when the round is full, no candidate may go on spending
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for index in running.values():
                self._broker.account.end(candidate_id(self._number, index), finished=False)

    async def _admit_and_end(self, running: dict[asyncio.Task[Candidate], int], on_end: OnEnd) -> StopReason:
        """Begin candidates and take note of ended ones, until something stops the round."""
        limit = self._settings.recipe.rounds.max_candidates
        done: asyncio.Queue[asyncio.Task[Candidate]] = asyncio.Queue()
        stopped: StopReason | None = None
        while stopped is None or running:
            await self._plan_domains()
            replayed = False
            while stopped is None and self._admitted < limit and len(running) < self._room():
                if not self._quotas.planned(self._admitted):
                    break
                recorded = self._recorded(self._admitted)
                if recorded is not None:
                    self._end(recorded)
                    on_end(recorded, True)
                    replayed = True
                elif replayed:
                    break  # recorded candidates may fill the round, which is checked before anything is asked
                elif self._spent():
                    # Running candidates may take less than was reserved for them.
                    stopped = None if running else StopReason.BUDGET
                    break
                else:
                    self._broker.account.begin(candidate_id(self._number, self._admitted))
                    task = asyncio.create_task(self._generate(self._admitted, self._domain(self._admitted)))
                    task.add_done_callback(done.put_nowait)
                    running[task] = self._admitted
                self._admitted += 1
            if not running and not replayed:
                break
            if running and not replayed:
                ended = [await done.get()]
                while not done.empty():
                    ended.append(done.get_nowait())
                for task in ended:
                    del running[task]
                    self._end(task.result())
                    on_end(task.result(), False)
            if stopped is None and await self._dedup.shortest_prefix() is not None:
                return StopReason.ENOUGH_ACCEPTED
            if self._unanswered_in_a_row > _FAILED_WAVES * self._in_flight:
                return StopReason.INFRASTRUCTURE
        return stopped or StopReason.CANDIDATE_LIMIT

    def _spent(self) -> bool:
        """Return whether a cap leaves no room for another candidate; candidates begun before a restart may finish."""
        try:
            self._broker.check_budget()
        except BudgetExhausted:
            return self._admitted >= self._begun_before
        return False

    @cached_property
    def _begun_before(self) -> int:
        """How many candidates this round began before a restart; part of their cost is paid."""
        first, end = candidate_id(self._number, 0), candidate_id(self._number, _LAST_INDEX)
        last = self._ledger.last_candidate(first, end, self._since)
        return 0 if last is None else index_of(last) + 1

    def _domain(self, index: int) -> str:
        return self._quotas.domain(index) or domain_in_turn(self._settings.recipe, self._parents, self._number, index)

    def _recorded(self, index: int) -> Candidate | None:
        """Return a candidate with the verdict of an earlier start, if there is one."""
        recorded = self._ledger.candidate_record(candidate_id(self._number, index), self._scope)
        if recorded is None or recorded["domain"] != self._domain(index):  # other quotas, other domains
            return None
        candidate = Candidate.from_json(recorded)
        return None if is_unanswered(candidate) else candidate

    async def _generate(self, index: int, domain: str) -> Candidate:
        """Generate a candidate and record its verdict."""
        candidate = await generate_candidate(
            self._settings, self._broker, self._parents, self._number, index, domain, self._weights
        )
        await self._ledger.conclude(candidate.id, candidate.to_json(), self._scope)
        return candidate

    def _end(self, candidate: Candidate) -> None:
        """Take note of an ended candidate; only what later decisions need stays in memory."""
        accepted = candidate.state is State.ACCEPTED
        score = 10.0 if candidate.mean is None else candidate.mean
        text = self._dedup.text(candidate.instruction, candidate.response) if accepted else ""
        self._ended += 1
        self._broker.account.end(candidate.id)
        self._accepted[candidate.domain] += accepted
        if is_unanswered(candidate):
            self._unanswered[candidate.index] = candidate
            self._unanswered_in_a_row += 1
            self.last_failure = candidate.reason
        else:
            self._unanswered_in_a_row = 0
        self._early[candidate.index] = FinishedCandidate(
            candidate.id, candidate.index, candidate.domain, candidate.state, score, text
        )
        while (first := self._early.pop(self._prefix, None)) is not None:
            if first.state is State.ACCEPTED:
                self._dedup.passed.append(first)
            self._prefix += 1

    async def _plan_domains(self) -> None:
        """Plan the domains of the next candidates as soon as the candidates have ended that decide them."""
        while not self._quotas.planned(self._admitted) and self._prefix >= self._quotas.needs:
            self._quotas.plan(await self._dedup.kept_by_domain(self._quotas.needs))

    def _room(self) -> int:
        """Return how many candidates may be in flight."""
        copies = self._dedup.copies
        missing = self._quotas.missing(self._accepted - copies)
        passed = len(self._dedup.passed) - copies.total()
        wanted = admission(missing, passed, self._prefix, self._ended)
        if not self._quotas.missing(self._accepted):
            wanted = math.ceil(wanted / 2)  # Only copies are to be replaced: what is begun beyond would be lost.
        return min(self._in_flight, wanted)

    async def _decide(self, stopped: StopReason) -> dict[str, Any]:
        """Decide the round; return its length and its candidates' dispositions as plain values."""
        # The last candidates under a spent budget may have filled the round.
        full = await self._dedup.shortest_prefix()
        last = self._prefix if full is None else full
        dispositions, rows = await self._dedup.dispositions(last)
        unanswered = sum(index < last for index in self._unanswered)
        if stopped is StopReason.CANDIDATE_LIMIT and unanswered and rows.total() < self._settings.recipe.rounds.accept:
            stopped = StopReason.INFRASTRUCTURE
        return {
            "stopped": stopped,
            "candidates": last,
            "beyond": self._admitted - last,
            "unanswered": unanswered,
            "rows": rows,
            "settled": {name: disposition.to_json() for name, disposition in dispositions.items()},
        }

    def _result(self, found: Mapping[str, Any]) -> RoundResult:
        settled = {name: Disposition.from_json(values) for name, values in found["settled"].items()}
        names = [candidate_id(self._number, index) for index in range(found["candidates"])]
        candidates = RecordedCandidates(self._ledger, self._scope, names, settled)
        stopped, rows = StopReason(found["stopped"]), Counter(found["rows"])
        return RoundResult(candidates, stopped, rows, found["beyond"], found.get("unanswered", 0))


def is_unanswered(candidate: Candidate) -> bool:
    """Return whether infrastructure left the candidate without a verdict, so that the next start asks it again."""
    return candidate.failed_by is FailureCause.INFRASTRUCTURE


def admission(missing: int, passed: int, prefix: int, ended: int) -> int:
    """Return how many candidates may be in flight: fewer at the start and near the end of a round.

    Args:
        missing: the rows that the round still lacks.
        passed: how many candidates of the prefix became rows, as far as they were compared yet.
        prefix: how many candidates have ended, counted from the first one without a gap.
        ended: how many candidates have ended at all.
    """
    # The rate comes from the prefix: candidates that end early are mostly rejected.
    rate = (passed + 3) / (prefix + 4)
    # A person sees a first row, or why there is none, before much is spent.
    return max(1, min(math.ceil(missing / rate), _FIRST + 12 * ended))


def grow(pool: Pool, samples: Sequence[Seed]) -> dict[str, list[Seed]]:
    """Return a new pool with the samples added to their domains (section 3.4)."""
    grown = {domain: list(members) for domain, members in pool.items()}
    for sample in samples:
        grown.setdefault(sample.domain, []).append(sample)
    return grown
