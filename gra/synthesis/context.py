"""Hold what the synthesis of one arm needs, and report its progress."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gra.config.synthesis import SynthesisRecipe
from gra.core.progress import View
from gra.core.text.special_tokens import SpecialTokens
from gra.core.types import Candidate, State
from gra.core.vocabulary import StopReason
from gra.engines.broker import Broker
from gra.engines.types import calls_at_once
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.funnel import steps, taken_by
from gra.synthesis.job import Job, candidates_in_flight
from gra.tracking import Tracker


@dataclass
class Goal:
    """The rows that an arm wants over all its rounds, and the candidates that it may take."""

    rows: int = 0
    candidates: int = 0


@dataclass
class SynthesisContext:
    """What the synthesis of one arm needs.

    Attributes:
        ended: candidates of the current round by state.
        gates: candidates past each step of the method, over all rounds.
        goal: what the arm is to make.
        stopped: what ended each round, or the run over the seeds.
        beyond: for each round, the candidates begun after the one that filled it.
        last_failure: the last sentence of a model or server that failed to answer.
        control_rows: rows of `control_items.parquet`, where a panel was fitted.
    """

    job: Job
    registry: ModelRegistry
    broker: Broker
    ledger: Ledger
    view: View
    tracker: Tracker
    ended: Counter[str] = field(default_factory=Counter)
    gates: Counter[str] = field(default_factory=Counter)
    goal: Goal = field(default_factory=Goal)
    stopped: list[StopReason] = field(default_factory=list)
    beyond: list[int] = field(default_factory=list)
    last_failure: str = ""
    control_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def recipe(self) -> SynthesisRecipe:
        """The arm's recipe."""
        return self.job.recipe

    @property
    def in_flight(self) -> int:
        """How many candidates may run at once."""
        pool = self.broker.pool
        return candidates_in_flight(map(calls_at_once, pool.engines.values()))

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """The chat-template tokens of the run's models and of common templates."""
        return SpecialTokens(self.registry.template_tokens())

    def note(self, candidate: Candidate, total: int, *, quietly: bool = False) -> None:
        """Count an ended candidate and report it.

        Args:
            candidate: in its state after the gate.
            total: the rows that the round wants.
            quietly: whether to count the candidate only, because an earlier start has reported it.
        """
        if self.job.on_candidate is not None:
            self.job.on_candidate(candidate)
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

    def note_unanswered(self, count: int, last: str) -> None:
        """Report candidates that infrastructure left without a verdict.

        Args:
            count: the number of such candidates.
            last: why the last one is unanswered.
        """
        self.last_failure = last
        self.view.note(
            f"! {count:,} candidates got no answer, the last because of: {last}. The next start of the same command "
            "asks them again"
        )
