"""Count what a run has spent over all its resumes, and decide whether its caps allow more.

Answers count when they are paid for, never when they are replayed. The ledger holds what earlier processes paid. No
candidate begins that may exceed a cap: each one under way reserves the highest cost of a candidate so far.
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

_MIN_FINISHED = 8  # finished items from which the cost of the next one is estimated
_FEW = 4  # items that begin at once before
_HELD = """
CREATE TABLE IF NOT EXISTS held (
  run TEXT NOT NULL, process TEXT NOT NULL, began REAL NOT NULL, gpu_seconds REAL NOT NULL, PRIMARY KEY (run, process)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Paid:
    """Tokens and their cost in US dollars, without GPU time."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Paid) -> Paid:
        return Paid(self.tokens + other.tokens, self.usd + other.usd)


def token_cost(prices: PricesConfig, model: str, prompt: float, cached: float, completion: float) -> float:
    """Return the cost of a model's tokens in US dollars; 0 for a model without a price.

    Args:
        prices: prices of the recipe.
        model: name of the model in the recipe.
        prompt: prompt tokens, the cached ones included.
        cached: prompt tokens that the server had cached.
        completion: completion tokens.
    """
    price = prices.models.get(model)
    if price is None:
        return 0.0
    cached_at = price.input if price.cached is None else price.cached
    return ((prompt - cached) * price.input + cached * cached_at + completion * price.output) / 1e6


class Reserve:
    """Reservation for items under way: for each one the highest cost of an item so far."""

    def __init__(self, most: Paid | None = None, ended: int = 0) -> None:
        self.most = most or Paid()
        self._ended = ended
        self._under_way: dict[str, Paid] = {}

    def begin(self, name: str) -> None:
        """Add an item that is under way from now on."""
        self._under_way[name] = Paid()

    def pay(self, name: str, cost: Paid) -> None:
        """Add to the cost of an item."""
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
        """Count the items under way."""
        return len(self._under_way)

    @property
    def known(self) -> bool:
        """Whether enough items have finished to estimate the cost of one."""
        return self._ended >= _MIN_FINISHED

    def needed(self) -> Paid:
        """Return what the items under way and one more may still cost."""
        total = self.most
        for paid in self._under_way.values():
            total += Paid(max(0, self.most.tokens - paid.tokens), max(0.0, self.most.usd - paid.usd))
        return total


class BudgetAccount:
    """Spending of a run, and its caps."""

    def __init__(
        self,
        ledger: Ledger,
        budget: BudgetConfig | None = None,
        prices: PricesConfig | None = None,
        gpu_seconds: float = 0.0,
    ) -> None:
        """Start with what the run has spent already.

        Args:
            ledger: holds every answer that was paid for.
            budget: the caps; default: none.
            prices: prices for the cap on money.
            gpu_seconds: GPU-seconds of earlier processes.
        """
        self.budget = budget or BudgetConfig()
        self.prices = prices or PricesConfig()
        self.gpu_seconds = gpu_seconds
        self.strict = False
        self._paid = Paid()
        for model, paid in ledger.paid("model").items():
            self._paid += self._cost(model, paid["prompt_tokens"], paid["cached_tokens"], paid["completion_tokens"])
        self._candidates, self._calls = Reserve(), Reserve()
        if self._capped:
            self._learn(ledger)
        self._changed = asyncio.Event()

    def _learn(self, ledger: Ledger) -> None:
        """Read the highest cost of a candidate of earlier processes."""
        spent: dict[str, Paid] = defaultdict(Paid)
        for candidate, model, *tokens in ledger.paid_for_candidates():
            spent[candidate] += self._cost(model, *tokens)
        if spent:
            most = Paid(max(p.tokens for p in spent.values()), max(p.usd for p in spent.values()))
            self._candidates = Reserve(most, len(spent))

    @property
    def tokens(self) -> int:
        """Return the prompt and completion tokens that were paid for."""
        return self._paid.tokens

    @property
    def gpu_hours(self) -> float:
        """Return the hours in which engines were up for this run, times their GPUs."""
        return self.gpu_seconds / 3600

    @property
    def usd(self) -> float:
        """Return the cost of tokens and GPU-hours at the recipe's prices, in US dollars."""
        return self._paid.usd + self.gpu_hours * (self.prices.gpu_hour or 0.0)

    @property
    def _capped(self) -> bool:
        return self.budget.tokens is not None or self.budget.usd is not None

    def pay(self, candidate: str, key: str, model: str, prompt: int, cached: int, completion: int) -> None:
        """Count one answer to the call with this key."""
        cost = self._cost(model, prompt, cached, completion)
        self._paid += cost
        self._candidates.pay(candidate, cost)
        self._calls.pay(key, cost)

    def begin(self, candidate: str) -> None:
        """Reserve for a candidate."""
        self._candidates.begin(candidate)

    def end(self, candidate: str, *, finished: bool = True) -> None:
        """Release what was reserved for a candidate that ended or was canceled."""
        if self._candidates.end(candidate, finished=finished):
            self._wake()

    def end_call(self, key: str) -> None:
        """Release what was reserved for a call."""
        if self._calls.end(key):
            self._wake()

    async def admit(self, candidate: str) -> None:
        """Reserve for a candidate as soon as the caps allow; items under way may cost less than is reserved.

        Raises:
            BudgetExhausted: the caps do not allow it, and no item is under way.
        """
        await self._room(self._candidates)
        self._candidates.begin(candidate)

    async def admit_call(self, key: str) -> None:
        """Reserve for a call as soon as the caps allow.

        Raises:
            BudgetExhausted: the caps do not allow it, and no item is under way.
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
        """Check every call during the block, not only the beginning of a candidate."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def check(self) -> None:
        """Check the caps before a candidate begins.

        Raises:
            BudgetExhausted: a cap, counted over all resumes, allows no further candidate at the moment.
        """
        self._check(self._candidates, "candidate")

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
        """Return the figures for the manifest and the log."""
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
    """Time in which engines were up for a run, in the ledger's file.

    Each process has one row, so a killed process loses seconds only.
    """

    def __init__(self, path: Path, run: str) -> None:
        """Open the ledger's file beside the ledger.

        Raises:
            DataError: it cannot be written.
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
        """Return the GPU-seconds of the run's other processes."""
        query = "SELECT TOTAL(gpu_seconds) FROM held WHERE run = ? AND process != ?"
        try:
            return float(self._db.execute(query, (self._run, self._process)).fetchone()[0])
        except sqlite3.Error as error:
            raise DataError(sentence(self._path, error)) from None

    def write(self, gpu_seconds: float) -> None:
        """Write the GPU-seconds of this process so far.

        Raises:
            DataError: the disk is full or the file is gone.
        """
        values = (self._run, self._process, self._began, gpu_seconds)
        try:
            self._db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise DataError(sentence(self._path, error)) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
