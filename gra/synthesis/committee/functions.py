"""Have members write functions that check responses, and weigh the functions (EVAPORATE-CODE+, arXiv 2304.09433).

Each member writes functions `check(instruction, response)` for a domain, once a run. They run in the sandbox only.
Those that separate good control items from bad ones are kept. A label model weighs them; copies are merged first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.core.processes.concurrency import together
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.engines.broker import Broker
from gra.engines.types import Text
from gra.sandbox.extract import extract
from gra.sandbox.job import SandboxJob
from gra.sandbox.sandbox import Sandbox
from gra.stats.aggregation import LabelModel, label_model
from gra.stats.reliability import auc
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import hint, render

FUNCTIONS_VERSION = 1  # raise when the same functions would give another verdict
LEAST = 0.6  # mean of the shares right on good and on bad control items
MOST = 10  # functions of a domain
SPOKEN = 4  # good and bad control items each on which a kept function must not abstain
_BATCH = 200  # items a job: the message of one holds their votes
_MARKS = {"1": 1.0, "0": 0.0}
# The votes come back as the message of an exception, one character an item.
_PREAMBLE = """
class Votes(Exception):
    pass

def report(check, items):
    marks = []
    for instruction, response in items:
        try:
            said = check(instruction, response)
        except Exception:
            said = None
        marks.append("1" if said is True else "0" if said is False else "-")
    raise Votes("".join(marks))
"""
Table = NDArray[np.float64]
Item = tuple[str, str]  # instruction and response


@dataclass(frozen=True, slots=True)
class WrittenFunction:
    """A function that a member wrote for a domain."""

    author: str
    number: int
    code: str

    @property
    def name(self) -> str:
        """The function's name in records."""
        return f"{self.author}-{self.number}"


@dataclass(frozen=True)
class FunctionPanel:
    """The kept functions of a domain with the label model that weighs them; `facts` go to the manifest."""

    functions: tuple[WrittenFunction, ...]
    model: LabelModel | None
    facts: dict[str, Any] = field(default_factory=dict)


async def write_functions(
    broker: Broker, members: Sequence[Member], domain: str, shown: Sequence[Any], draws: int
) -> list[WrittenFunction]:
    """Have every member write functions for a domain; an answer without a function `check` gives none.

    Args:
        broker: answers the calls.
        members: the authors. One that always decodes greedily writes one function.
        domain: what the functions are for.
        shown: control items that the prompt shows.
        draws: functions of each member.

    Raises:
        Unanswered: when infrastructure failed.
    """
    prompt = render("functions/write", domain=domain, hint=hint(domain), shown=shown)
    recorder = CallRecorder(broker, f"functions-{domain}")

    async def one(member: Member, number: int) -> WrittenFunction | None:
        call = member.call(prompt, Text(), role=CallPurpose.SOLVER, candidate=recorder.candidate, sample=number)
        try:
            program = extract(str((await recorder.ask(call)).value), "", "check")
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                raise
            return None
        if program is None or "def check(" not in program.code:
            return None
        return WrittenFunction(member.name, number, program.code)

    turns = [(member, n) for member in members for n in range(draws) if n == 0 or member.sampling.varies]
    return [function for function in await together(*(one(*turn) for turn in turns)) if function is not None]


async def collect_votes(
    sandbox: Sandbox, free: asyncio.Semaphore, functions: Sequence[WrittenFunction], items: Sequence[Item]
) -> Table:
    """Run functions on items in the sandbox.

    Args:
        sandbox: the only place where the functions run.
        free: a place for each job that may run at once.
        functions: what to run.
        items: instruction and response of each.

    Returns:
        Functions x items: 1 good, 0 bad, NaN where the function abstains, raises, or does not end in time.
    """

    async def one(function: WrittenFunction, batch: Sequence[Item]) -> list[float]:
        job = SandboxJob(function.code, f"report(check, {list(batch)!r})", _PREAMBLE, "check")
        async with free:
            outcome = await asyncio.to_thread(sandbox.run, job)
        head, _, rest = outcome.detail.partition(": ")
        marks = rest[: len(batch)] if head == "Votes" else ""
        return [_MARKS.get(mark, np.nan) for mark in marks.ljust(len(batch), "-")]

    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]

    async def row(function: WrittenFunction) -> list[float]:
        return list(chain.from_iterable(await together(*(one(function, batch) for batch in batches))))

    return np.array(await together(*map(row, functions)), float).reshape(len(functions), len(items))


def choose_functions(votes: Table, good: NDArray[np.bool_]) -> list[int]:
    """Return the places of the functions to keep, best first.

    The score is the mean of the shares right on good and on bad control items. Abstentions are left out. Of
    functions with the same votes on all items one is kept.
    """
    scored = []
    for place, row in enumerate(votes):
        spoke = ~np.isnan(row)
        on_good, on_bad = row[spoke & good], row[spoke & ~good]
        if min(len(on_good), len(on_bad)) >= SPOKEN:
            scored.append((float(on_good.mean() + 1 - on_bad.mean()) / 2, place))
    kept: list[int] = []
    for score, place in sorted(scored, key=lambda pair: (-pair[0], pair[1])):
        # The label model merges copies that it sees on 20 items or more; a domain may have fewer.
        copy = any(np.array_equal(votes[place], votes[other], equal_nan=True) for other in kept)
        if score >= LEAST and not copy:
            kept.append(place)
    return kept[:MOST]


def score_ways(model: LabelModel, votes: Table) -> dict[str, Table]:
    """Return each item's score by the label model, the plain majority and the best function; 0.5 without a vote.

    Args:
        model: of the kept functions.
        votes: kept functions x items, the best function first.
    """
    return {
        "label_model": np.array([0.5 if (p := model.judge(column)) is None else p for column in votes.T]),
        "majority": np.array([0.5 if np.isnan(column).all() else np.nanmean(column) for column in votes.T]),
        "best_function": np.nan_to_num(votes[0], nan=0.5),
    }


def fit_functions(
    functions: Sequence[WrittenFunction], votes: Table, good: NDArray[np.bool_], held: NDArray[np.bool_]
) -> FunctionPanel:
    """Keep the functions that separate good from bad, weigh them, and measure them on the held-out items.

    Args:
        functions: what members wrote.
        votes: functions x control items.
        good: which control items are good.
        held: which control items only measure.
    """
    kept = choose_functions(votes[:, ~held], good[~held])
    facts: dict[str, Any] = {"written": len(functions), "kept": len(kept), "items": int((~held).sum())}
    if not kept:
        return FunctionPanel((), None, facts)
    model = label_model(votes[kept][:, ~held])
    chosen = tuple(functions[place] for place in kept)
    facts["accuracy"] = {f.name: round(value, 3) for f, value in zip(chosen, model.accuracy, strict=True)}
    facts["merged"] = [[chosen[place].name for place in group] for group in model.groups if len(group) > 1]
    measured, truth = votes[kept][:, held], good[held]
    if truth.any() and not truth.all():
        shown = score_ways(model, measured)
        facts["held_out"] = {
            "items": len(truth),
            "auc": {name: round(auc(scores[truth], scores[~truth]), 3) for name, scores in shown.items()},
            "abstained": round(float(np.mean(np.isnan(measured).all(axis=0))), 3),
        }
    return FunctionPanel(chosen, model, facts)
