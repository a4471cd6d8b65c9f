"""What a run has spent over all its resumes, and whether its caps allow more.

Answers are counted when they are paid for, never when they are replayed; what earlier processes paid stands in the
ledger. A cap is kept by beginning no candidate that may not fit: for every one under way as much is set aside as the
dearest has taken so far.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gra.config.budget import BudgetConfig, PricesConfig
from gra.core.errors import BudgetExhausted, DataError
from gra.ledger.ledger import Ledger
from gra.ledger.schema import connect, sentence

_TELLING = 8  # things that have ended, from which on they tell what one takes
_FEW = 4  # begun at once until then
_HELD = """
CREATE TABLE IF NOT EXISTS held (
  run TEXT NOT NULL, process TEXT NOT NULL, began REAL NOT NULL, gpu_seconds REAL NOT NULL, PRIMARY KEY (run, process)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Paid:
    """Tokens and what they cost (US dollars, without GPU time)."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Paid) -> Paid:
        return Paid(self.tokens + other.tokens, self.usd + other.usd)


def token_cost(prices: PricesConfig, model: str, prompt: float, cached: float, completion: float) -> float:
    """US dollars for a model's tokens; 0 where it has no price by the token. `cached` is a part of `prompt`."""
    price = prices.models.get(model)
    if price is None:
        return 0.0
    cached_at = price.input if price.cached is None else price.cached
    return ((prompt - cached) * price.input + cached * cached_at + completion * price.output) / 1e6


class Reserve:
    """What is set aside for things under way: for each as much as the dearest has cost so far."""

    def __init__(self, most: Paid | None = None, ended: int = 0) -> None:
        self.most = most or Paid()
        self._ended = ended
        self._under_way: dict[str, Paid] = {}

    def begin(self, name: str) -> None:
        """From now on it is under way."""
        self._under_way[name] = Paid()

    def pay(self, name: str, cost: Paid) -> None:
        """A part of its cost is paid."""
        if name in self._under_way:
            self._under_way[name] += cost

    def end(self, name: str, *, finished: bool = True) -> bool:
        """End an item of work; the cost of an unfinished one says nothing of what an item takes."""
        cost = self._under_way.pop(name, None)
        if cost is not None and finished:
            self.most = Paid(max(self.most.tokens, cost.tokens), max(self.most.usd, cost.usd))
            self._ended += 1
        return cost is not None

    @property
    def under_way(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    @property
    def known(self) -> bool:
        """Whether enough have ended to tell what one takes."""
        return self._ended >= _TELLING

    def needed(self) -> Paid:
        """What those under way and one more may still cost."""
        total = self.most
        for paid in self._under_way.values():
            total += Paid(max(0, self.most.tokens - paid.tokens), max(0.0, self.most.usd - paid.usd))
        return total


class BudgetAccount:
    """A run's spending against its caps."""

    def __init__(
        self,
        ledger: Ledger,
        budget: BudgetConfig | None = None,
        prices: PricesConfig | None = None,
        gpu_seconds: float = 0.0,
    ) -> None:
        """Begin with what the run has spent already.

        Args:
            ledger: holds every answer that was paid for.
            budget: the caps; none when not given.
            prices: what the cap on money is counted by.
            gpu_seconds: time times GPUs that earlier processes held.
        """
        self.budget = budget or BudgetConfig()
        self.prices = prices or PricesConfig()
        self.gpu_seconds = gpu_seconds
        self.strict = False
        self._paid = Paid()
        for model, paid in ledger.paid("model").items():
            self._paid += self._cost(model, paid["prompt_tokens"], paid["cached_tokens"], paid["completion_tokens"])
        self._stories, self._calls = Reserve(), Reserve()
        if self._capped:
            self._learn(ledger)
        self._changed = asyncio.Event()

    def _learn(self, ledger: Ledger) -> None:
        """What the dearest candidate of earlier processes took."""
        told: dict[str, Paid] = defaultdict(Paid)
        for candidate, model, *tokens in ledger.paid_for_candidates():
            told[candidate] += self._cost(model, *tokens)
        if told:
            most = Paid(max(p.tokens for p in told.values()), max(p.usd for p in told.values()))
            self._stories = Reserve(most, len(told))

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens that were paid for."""
        return self._paid.tokens

    @property
    def gpu_hours(self) -> float:
        """Hours in which engines were up for this run, times their GPUs."""
        return self.gpu_seconds / 3600

    @property
    def usd(self) -> float:
        """What tokens and GPU-hours cost by the recipe's prices."""
        return self._paid.usd + self.gpu_hours * (self.prices.gpu_hour or 0.0)

    @property
    def _capped(self) -> bool:
        return self.budget.tokens is not None or self.budget.usd is not None

    def pay(self, candidate: str, key: str, model: str, prompt: int, cached: int, completion: int) -> None:
        """Count one answer, of the call with this key."""
        cost = self._cost(model, prompt, cached, completion)
        self._paid += cost
        self._stories.pay(candidate, cost)
        self._calls.pay(key, cost)

    def begin(self, candidate: str) -> None:
        """A candidate is admitted: what it may need is set aside from now on."""
        self._stories.begin(candidate)

    def end(self, candidate: str, *, finished: bool = True) -> None:
        """Release what was reserved for a candidate that ended or was canceled."""
        if self._stories.end(candidate, finished=finished):
            self._wake()

    def end_call(self, key: str) -> None:
        """A call is done."""
        if self._calls.end(key):
            self._wake()

    async def admit(self, candidate: str) -> None:
        """Begin a candidate as soon as there is room; those under way may take less than is set aside for them.

        Raises:
            BudgetExhausted: when there is no room and nothing under way.
        """
        await self._room(self._stories)
        self._stories.begin(candidate)

    async def admit_call(self, key: str) -> None:
        """The same for a call, where every call is checked.

        Raises:
            BudgetExhausted: when there is no room and nothing under way.
        """
        await self._room(self._calls)
        self._calls.begin(key)

    async def _room(self, reserve: Reserve) -> None:
        while True:
            try:
                return self._check(reserve, "call" if reserve is self._calls else "candidate")
            except BudgetExhausted:
                if not reserve.under_way:
                    raise
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """For the time of the block every call is checked, not only the admission of a candidate."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def check(self) -> None:
        """Called before a candidate is begun.

        Raises:
            BudgetExhausted: when a cap, counted over all resumes, leaves no room for another, or none for the moment.
        """
        self._check(self._stories, "candidate")

    def _check(self, reserve: Reserve, thing: str) -> None:
        budget = self.budget
        if not self._capped and budget.gpu_hours is None:
            return
        needed = reserve.needed()
        if self._capped and reserve.under_way >= _FEW and not reserve.known:
            raise BudgetExhausted(
                f"what a {thing} takes is not known yet, so only {_FEW} are begun at once under a cap"
            )
        if budget.tokens is not None and _full(self.tokens, needed.tokens, budget.tokens):
            more = f"; a {thing} takes up to {reserve.most.tokens:,}" if self.tokens < budget.tokens else ""
            raise _used_up("tokens", f"{budget.tokens:,} tokens", f"{self.tokens:,} spent over all resumes{more}")
        if budget.usd is not None and _full(self.usd, needed.usd, budget.usd):
            more = f"; a {thing} takes up to {reserve.most.usd:.4f}" if self.usd < budget.usd else ""
            raise _used_up("usd", f"{budget.usd:,.2f} US dollars", f"{self.usd:,.4f} spent over all resumes{more}")
        if budget.gpu_hours is not None and self.gpu_hours >= budget.gpu_hours:
            spent = f"{self.gpu_hours:,.4f} used over all resumes"
            raise _used_up("gpu_hours", f"{budget.gpu_hours:g} GPU-hours", spent)

    def to_json(self) -> dict[str, float]:
        """For the manifest and the log."""
        return {"tokens": self.tokens, "gpu_hours": round(self.gpu_hours, 6), "usd": round(self.usd, 6)}

    def _cost(self, model: str, prompt: int, cached: int, completion: int) -> Paid:
        return Paid(prompt + completion, token_cost(self.prices, model, prompt, cached, completion))


def _full(spent: float, needed: float, cap: float) -> bool:
    return spent >= cap or spent + needed > cap


def _used_up(key: str, cap: str, spent: str) -> BudgetExhausted:
    return BudgetExhausted(
        f"the budget of {cap} is used up ({spent}); what was finished is a valid dataset. Raise `budget.{key}` and run "
        "the same command again to go on"
    )


class GpuTime:
    """How long engines were up for a run, in the ledger's file: one row a process, so that a kill loses seconds."""

    def __init__(self, path: Path, run: str) -> None:
        """Open the ledger's file beside the ledger.

        Raises:
            DataError: when it cannot be written.
        """
        self._path, self._run = path, run
        self._process = uuid.uuid4().hex
        self._began = time.time()
        try:
            self._db = connect(path)
            self._db.execute(_HELD)
        except sqlite3.Error as error:
            raise DataError(sentence(path, error)) from None

    def before(self) -> float:
        """GPU-seconds of the run's other processes."""
        query = "SELECT TOTAL(gpu_seconds) FROM held WHERE run = ? AND process != ?"
        try:
            return float(self._db.execute(query, (self._run, self._process)).fetchone()[0])
        except sqlite3.Error as error:
            raise DataError(sentence(self._path, error)) from None

    def write(self, gpu_seconds: float) -> None:
        """Note this process's GPU-seconds so far.

        Raises:
            DataError: when the disk is full or the file is gone.
        """
        values = (self._run, self._process, self._began, gpu_seconds)
        try:
            self._db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise DataError(sentence(self._path, error)) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
