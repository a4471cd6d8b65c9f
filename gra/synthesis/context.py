"""One arm to be made (`Job`), and what making it needs at hand (`SynthesisContext`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gra.config.synthesis import SynthesisRecipe
from gra.core.progress import View
from gra.core.types import Candidate, State
from gra.engines.broker import Broker
from gra.engines.types import calls_at_once
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.funnel import steps, taken_by
from gra.synthesis.job import Job, candidates_in_flight
from gra.tracking import Tracker


@dataclass
class Goal:
    """What an arm is to make, over all its rounds, and how many candidates it may take."""

    rows: int = 0
    candidates: int = 0


@dataclass
class SynthesisContext:
    """What making one arm needs at hand."""

    job: Job
    registry: ModelRegistry
    broker: Broker
    ledger: Ledger
    view: View
    tracker: Tracker
    ended: Counter[str] = field(default_factory=Counter)
    gates: Counter[str] = field(default_factory=Counter)  # candidates past each step of the method, over all rounds
    goal: Goal = field(default_factory=Goal)
    stopped: list[str] = field(default_factory=list)  # why each round, or the run over the seeds, ended
    beyond: list[int] = field(default_factory=list)  # candidates of each round begun after the one that filled it

    @property
    def recipe(self) -> SynthesisRecipe:
        """The arm's recipe."""
        return self.job.recipe

    @property
    def in_flight(self) -> int:
        """How many stories may be told at once."""
        pool = self.broker.pool
        return candidates_in_flight(map(calls_at_once, pool.engines.values()))

    def note(self, candidate: Candidate, total: int, *, quietly: bool = False) -> None:
        """Tell the person, the log and whoever waits for a committee's first candidate that a candidate ended.

        `quietly` only counts it: an earlier start has told of it.
        """
        self.registry.prepared.set()
        self.ended[candidate.state] += 1
        past = steps(candidate)
        self.gates.update({step: past[step] for step in taken_by(self.recipe)})
        if quietly:
            return
        progress = self.broker.progress
        tokens = sum(u.completion_tokens for u in progress.usage.values())
        waiting = ", ".join(f"{name} {n}" for name, n in progress.in_flight.items() if n)
        detail = f"of {self.ended.total()} ended, {tokens:,} tokens" + (f" | in flight: {waiting}" if waiting else "")
        done = self.ended[State.ACCEPTED]
        self.view.progress(f"{self.recipe.name} accepted", min(done, total), total, detail)
        self.view.event("candidate", arm=self.recipe.name, id=candidate.id, state=candidate.state, tokens=tokens)
