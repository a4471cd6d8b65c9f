"""One arm to be made (`Job`), and what making it needs at hand (`Workbench`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.synthesis import SynthesisRecipe
from gra.core.progress import View
from gra.core.run_folder import RunFolder, digest, file_digest
from gra.core.types import Candidate, State
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import Seeds, load_seeds
from gra.engines.broker import Broker
from gra.engines.types import calls_at_once
from gra.ledger.ledger import Ledger
from gra.sandbox.permission import Permission
from gra.serving.models import Workshop
from gra.synthesis.committee.members import committee_of
from gra.synthesis.committee.verifiers import versions
from gra.synthesis.decontamination import Screen
from gra.synthesis.format_constraints import FORMS_VERSION
from gra.synthesis.funnel import steps, taken_by
from gra.synthesis.prompts import digests
from gra.tracking import Tracker

_STORIES_PER_MODEL = 12  # in flight at least: where engines take few calls, stories also wait for other models


def stories_at_once(calls: Iterable[int]) -> int:
    """How many stories may be told at once on engines that take so many calls at once.

    As many as all of them take together, for a story mostly waits for one call: so engines that are in memory together
    have full batches, and one that comes back after another's turn finds one. When a round is nearly full, `admission`
    lets fewer begin.
    """
    return sum(max(_STORIES_PER_MODEL, each) for each in calls) or _STORIES_PER_MODEL


@dataclass(frozen=True)
class Job:
    """One arm to be made: its checked recipe and the folder it goes to."""

    loaded: Loaded[SynthesisRecipe]
    folder: RunFolder
    ledger: Path
    permission: Permission | None = None  # to run code that a model wrote
    screen: Screen | None = None  # of a recipe that names a suite

    @property
    def recipe(self) -> SynthesisRecipe:
        """The checked recipe."""
        return self.loaded.recipe

    def seed_file(self) -> Path:
        """Where the recipe's seeds are."""
        return find_seeds(self.recipe.seeds, self.loaded.path)

    @property
    def seeds(self) -> Seeds:
        """The recipe's seeds, and the rows that had to be set aside; read once."""
        return self._seeds[0]

    @property
    def seeds_sha256(self) -> str:
        """The digest of the seed file as it was read; who changes it meanwhile changes the next run."""
        return self._seeds[1]

    @cached_property
    def _seeds(self) -> tuple[Seeds, str]:
        file, recipe = self.seed_file(), self.recipe
        return load_seeds(file, recipe.domains, recipe.seeds, seed=recipe.seed), file_digest(file)

    def fingerprint(self, workshop: Workshop, *without: str) -> str:
        """Changes whenever the dataset could: recipe (but for the sections in `without`), seeds, models, prompts."""
        # Where a model runs is in its identity, as far as it matters, and an adapter is what it holds, not its folder.
        elsewhere = {"engine", "adapter"}
        members: dict[str, Any] = {"committee": {"models": {"__all__": elsewhere}}, "teacher": elsewhere}
        # A suite is what its items are, not its file; forms are told apart below, where any are asked for.
        left_out = {"tracking", "engine", "ledger", "contamination", "forms", *without}
        recipe = self.recipe.model_dump(exclude=members | dict.fromkeys(left_out, True))
        models = {name: asdict(workshop.model_id(name)) for name in sorted(workshop.models)}
        programs = versions(self.recipe.review.programs)
        committee = committee_of(self.recipe)
        adapters = {
            name: workshop.model_id(member.model, member.adapter).adapter
            for name, member in (committee.models.items() if committee else ())
            if member.adapter is not None
        }
        parts = [recipe, self.seeds_sha256, models, digests(), programs]
        parts += [adapters] if adapters else []
        parts += [{"forms": [FORMS_VERSION, self.recipe.forms.model_dump()]}] if self.recipe.forms.share else []
        parts += [{"contamination": self.screen.digest}] if self.screen else []
        return digest(parts)


@dataclass
class Goal:
    """What an arm is to make, over all its rounds, and how many candidates it may take."""

    rows: int = 0
    candidates: int = 0


@dataclass
class Workbench:
    """What making one arm needs at hand."""

    job: Job
    workshop: Workshop
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
        return stories_at_once(map(calls_at_once, pool.engines.values()))

    def note(self, candidate: Candidate, total: int, *, quietly: bool = False) -> None:
        """Tell the person, the log and whoever waits for a committee's first candidate that a candidate ended.

        `quietly` only counts it: an earlier start has told of it.
        """
        self.workshop.prepared.set()
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
