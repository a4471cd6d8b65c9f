"""Describe one arm to synthesize: its recipe, folder, ledger and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gra.checks.agreement import AGREEMENT_VERSION
from gra.checks.answers import ANSWERS_VERSION
from gra.config.loader import Loaded, find_file
from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.hashing import digest, file_digest
from gra.core.run_folder import RunFolder
from gra.core.types import SIGN_CHECKS, Candidate
from gra.data.questions import Question, load_questions
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import Seeds, load_seeds
from gra.ledger.ledger import Recorded
from gra.sandbox.permission import Permission
from gra.serving.models import ModelRegistry
from gra.synthesis.committee.instruction_signs import SIGNS_VERSION
from gra.synthesis.committee.no_instruction import INSTRUCTIONS_VERSION
from gra.synthesis.committee.verifiers import versions
from gra.synthesis.decontamination import Decontaminator
from gra.synthesis.format_constraints import FORMAT_CONSTRAINTS_VERSION
from gra.synthesis.measuring.preparation import read_preparation
from gra.synthesis.prompts import digests, folder_digests

_CANDIDATES_PER_MODEL = 12  # the least in flight: where engines take few calls, candidates wait for other models


def candidates_in_flight(calls: Iterable[int]) -> int:
    """Return how many candidates may run at once.

    A candidate mostly waits for one call, so there are as many candidates as all engines take calls. Then resident
    engines have full batches, and so has an engine that is loaded again. Near the end of a round, `admission` allows
    fewer.

    Args:
        calls: the calls that each engine takes at once.
    """
    return sum(max(_CANDIDATES_PER_MODEL, each) for each in calls) or _CANDIDATES_PER_MODEL


@dataclass(frozen=True)
class Job:
    """One arm to synthesize: its checked recipe and the folder it goes to.

    Attributes:
        permission: to run code that a model wrote.
        decontaminator: searches for test items, where the recipe names a suite.
        on_candidate: called with every candidate in its state after the gate, also when it was recorded before.
    """

    loaded: Loaded[SynthesisRecipe]
    folder: RunFolder
    ledger: Path
    permission: Permission | None = None
    decontaminator: Decontaminator | None = None
    on_candidate: Callable[[Candidate], None] | None = None

    @property
    def recipe(self) -> SynthesisRecipe:
        """The checked recipe."""
        return self.loaded.recipe

    def seed_file(self) -> Path:
        """Return the path of the recipe's seeds."""
        return find_seeds(self.recipe.seeds, self.loaded.path)

    @property
    def seeds(self) -> Seeds:
        """The recipe's seeds and the rows that were set aside; read once."""
        return self._seeds[0]

    @property
    def seeds_sha256(self) -> str:
        """The digest of the seed file as it was read."""
        return self._seeds[1]

    @cached_property
    def _seeds(self) -> tuple[Seeds, str]:
        file, recipe = self.seed_file(), self.recipe
        return load_seeds(file, recipe.domains, recipe.seeds, seed=recipe.seed), file_digest(file)

    @cached_property
    def control_questions(self) -> list[Question]:
        """The questions with known answers that control items are made of; empty where the recipe names none."""
        return load_questions(self._question_file()) if self.recipe.review.control_questions is not None else []

    @cached_property
    def preparation(self) -> list[Recorded]:
        """The recorded answers that prepare the committee; empty where the recipe names none."""
        file = self.preparation_file()
        return read_preparation(file) if file is not None else []

    def preparation_file(self) -> Path | None:
        """Return the file of recorded answers that the recipe names."""
        name = self.recipe.preparation
        return find_file(name, self.loaded.path) if name is not None else None

    def _question_file(self) -> Path:
        return find_file(str(self.recipe.review.control_questions), self.loaded.path)

    def fingerprint(self, registry: ModelRegistry, *without: str) -> str:
        """Return a digest of everything that decides the dataset: recipe, seeds, models, prompts.

        Args:
            registry: the resolved models.
            without: sections of the recipe to leave out.
        """
        # A model's identity holds where it runs, as far as that matters; an adapter's identity is its content.
        elsewhere = {"engine", "adapter"}
        members: dict[str, Any] = {"committee": {"models": {"__all__": elsewhere}}, "teacher": elsewhere}
        # A suite's identity is its items; format constraints are added below, where there are any.
        left_out = {"tracking", "engine", "ledger", "preparation", "contamination", "format_constraints", *without}
        recipe = self.recipe.model_dump(exclude=members | dict.fromkeys(left_out, True))
        models = {name: asdict(registry.model_id(name)) for name in sorted(registry.models)}
        verifiers = versions(self.recipe.review.verifiers)
        committee = committee_of(self.recipe)
        adapters = {
            name: registry.model_id(member.model, member.adapter).adapter
            for name, member in (committee.models.items() if committee else ())
            if member.adapter is not None
        }
        parts = [recipe, self.seeds_sha256, models, digests(), verifiers]
        parts += [adapters] if adapters else []
        parts += (
            # Recipes of before `repair` keep their digest.
            [{"forms": [FORMAT_CONSTRAINTS_VERSION, forms.model_dump(exclude=None if forms.repair else {"repair"})]}]
            if (forms := self.recipe.format_constraints).share or forms.repair
            else []
        )
        parts += (
            [{"control_questions": [file_digest(self._question_file()), ANSWERS_VERSION]}]
            if self.recipe.review.control_questions is not None
            else []
        )
        asked = {member.ask or self.recipe.review.ask for member in committee.models.values()} if committee else set()
        parts += [{"agreement": [AGREEMENT_VERSION, ANSWERS_VERSION]}] if "agreement" in asked else []
        if set(SIGN_CHECKS) & set(self.recipe.review.checks):
            parts += [{"signs": SIGNS_VERSION}]
        writes = self.recipe.arm_spec.writes_rounds and self.recipe.self_guide is None
        parts += [{"instructions": INSTRUCTIONS_VERSION}] if writes else []
        parts += [{folder: folder_digests(folder)} for folder in self.recipe.prompt_folders]
        parts += [{"contamination": self.decontaminator.digest}] if self.decontaminator else []
        return digest(parts)
