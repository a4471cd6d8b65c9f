"""What a run has spent over all its resumes, and whether its caps allow more.

Answers are counted when they are paid for, never when they are replayed; what earlier processes paid stands in the
ledger. A cap is kept by beginning no candidate that is not expected to fit: what those under way still need is set
aside, at what a candidate cost so far.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gra.core.budget_schema import Budget, Prices
from gra.core.errors import BudgetExhausted, DataError
from gra.core.ledger import Ledger
from gra.core.ledger_file import connect, sentence

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


def token_cost(prices: Prices, model: str, prompt: float, cached: float, completion: float) -> float:
    """US dollars for a model's tokens; 0 where it has no price by the token. `cached` is a part of `prompt`."""
    price = prices.models.get(model)
    if price is None:
        return 0.0
    cached_at = price.input if price.cached is None else price.cached
    return ((prompt - cached) * price.input + cached * cached_at + completion * price.output) / 1e6


class Account:
    """A run's spending against its caps."""

    def __init__(
        self, ledger: Ledger, budget: Budget | None = None, prices: Prices | None = None, gpu_seconds: float = 0.0
    ) -> None:
        """Begin with what the run has spent already.

        Args:
            ledger: holds every answer that was paid for.
            budget: the caps; none when not given.
            prices: what the cap on money is counted by.
            gpu_seconds: time times GPUs that earlier processes held.
        """
        self.budget = budget or Budget()
        self.prices = prices or Prices()
        self.gpu_seconds = gpu_seconds
        self.strict = False
        self._paid = self._sum(ledger.paid("model"))
        told, count = ledger.paid_for_stories()
        self._told, self._stories = self._sum(told), count
        self._under_way: dict[str, Paid] = {}
        self._ended = asyncio.Event()

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

    def pay(self, candidate: str, model: str, prompt: int, cached: int, completion: int) -> None:
        """Count one answer."""
        cost = Paid(prompt + completion, token_cost(self.prices, model, prompt, cached, completion))
        self._paid += cost
        if candidate in self._under_way:
            self._under_way[candidate] += cost

    def begin(self, candidate: str) -> None:
        """A candidate is admitted: what it needs is set aside from now on."""
        self._under_way[candidate] = Paid()

    def end(self, candidate: str, *, told: bool = True) -> None:
        """A candidate is done; one that was left half `told` says nothing about what a candidate costs."""
        cost = self._under_way.pop(candidate, None)
        if cost is not None and told:
            self._told += cost
            self._stories += 1
        self._ended.set()
        self._ended = asyncio.Event()

    async def admit(self, candidate: str) -> None:
        """Begin a candidate as soon as there is room for it; those under way may take less than was set aside.

        Raises:
            BudgetExhausted: when there is no room and nothing under way.
        """
        while True:
            try:
                self.check()
            except BudgetExhausted:
                if not self._under_way:
                    raise
                await self._ended.wait()
            else:
                self.begin(candidate)
                return

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """For the time of the block every call is checked, not only the admission of a candidate."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def check(self) -> None:
        """Called before anything new is begun.

        Raises:
            BudgetExhausted: when a cap, counted over all resumes, leaves no room for another candidate.
        """
        mean = self._mean()
        aside = Paid()
        for paid in self._under_way.values():
            aside += Paid(max(0, mean.tokens - paid.tokens), max(0.0, mean.usd - paid.usd))
        budget = self.budget
        one_more = aside + mean
        if budget.tokens is not None and _full(self.tokens, one_more.tokens, budget.tokens):
            more = f"; a candidate takes about {mean.tokens:,}" if self.tokens < budget.tokens else ""
            raise _used_up("tokens", f"{budget.tokens:,} tokens", f"{self.tokens:,} spent over all resumes{more}")
        if budget.usd is not None and _full(self.usd, one_more.usd, budget.usd):
            more = f"; a candidate takes about {mean.usd:.4f}" if self.usd < budget.usd else ""
            raise _used_up("usd", f"{budget.usd:,.2f} US dollars", f"{self.usd:,.4f} spent over all resumes{more}")
        if budget.gpu_hours is not None and self.gpu_hours >= budget.gpu_hours:
            spent = f"{self.gpu_hours:,.4f} used over all resumes"
            raise _used_up("gpu_hours", f"{budget.gpu_hours:g} GPU-hours", spent)

    def to_json(self) -> dict[str, float]:
        """For the manifest and the log."""
        return {"tokens": self.tokens, "gpu_hours": round(self.gpu_hours, 6), "usd": round(self.usd, 6)}

    def _mean(self) -> Paid:
        """What a candidate has cost so far; nothing while none has ended."""
        count = max(1, self._stories)
        return Paid(self._told.tokens // count, self._told.usd / count)

    def _sum(self, paid: Mapping[str, Mapping[str, int]]) -> Paid:
        total = Paid()
        for model, by in paid.items():
            prompt, cached, completion = by["prompt_tokens"], by["cached_tokens"], by["completion_tokens"]
            total += Paid(prompt + completion, token_cost(self.prices, model, prompt, cached, completion))
        return total


def _full(spent: float, needed: float, cap: float) -> bool:
    return spent >= cap or spent + needed > cap


def _used_up(key: str, cap: str, spent: str) -> BudgetExhausted:
    return BudgetExhausted(
        f"the budget of {cap} is used up ({spent}); what was finished is a valid dataset. Raise `budget.{key}` and run "
        "the same command again to go on"
    )


class Held:
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
        return float(self._db.execute(query, (self._run, self._process)).fetchone()[0])

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
