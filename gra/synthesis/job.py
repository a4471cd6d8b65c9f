"""One arm to synthesize: its recipe, folder, ledger and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.hashing import digest, file_digest
from gra.core.run_folder import RunFolder
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import Seeds, load_seeds
from gra.sandbox.permission import Permission
from gra.serving.models import ModelRegistry
from gra.synthesis.committee.verifiers import versions
from gra.synthesis.decontamination import Decontaminator
from gra.synthesis.format_constraints import FORMAT_CONSTRAINTS_VERSION
from gra.synthesis.prompts import digests

_CANDIDATES_PER_MODEL = 12  # in flight at least: where engines take few calls, stories also wait for other models


def candidates_in_flight(calls: Iterable[int]) -> int:
    """How many stories may be told at once on engines that take so many calls at once.

    As many as all of them take together, for a story mostly waits for one call: so engines that are in memory together
    have full batches, and one that comes back after another's turn finds one. When a round is nearly full, `admission`
    lets fewer begin.
    """
    return sum(max(_CANDIDATES_PER_MODEL, each) for each in calls) or _CANDIDATES_PER_MODEL


@dataclass(frozen=True)
class Job:
    """One arm to be made: its checked recipe and the folder it goes to."""

    loaded: Loaded[SynthesisRecipe]
    folder: RunFolder
    ledger: Path
    permission: Permission | None = None  # to run code that a model wrote
    decontaminator: Decontaminator | None = None  # of a recipe that names a suite

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

    def fingerprint(self, registry: ModelRegistry, *without: str) -> str:
        """Changes whenever the dataset could: recipe (but for the sections in `without`), seeds, models, prompts."""
        # Where a model runs is in its identity, as far as it matters, and an adapter is what it holds, not its folder.
        elsewhere = {"engine", "adapter"}
        members: dict[str, Any] = {"committee": {"models": {"__all__": elsewhere}}, "teacher": elsewhere}
        # A suite is what its items are, not its file; forms are told apart below, where any are asked for.
        left_out = {"tracking", "engine", "ledger", "contamination", "format_constraints", *without}
        recipe = self.recipe.model_dump(exclude=members | dict.fromkeys(left_out, True))
        models = {name: asdict(registry.model_id(name)) for name in sorted(registry.models)}
        programs = versions(self.recipe.review.verifiers)
        committee = committee_of(self.recipe)
        adapters = {
            name: registry.model_id(member.model, member.adapter).adapter
            for name, member in (committee.models.items() if committee else ())
            if member.adapter is not None
        }
        parts = [recipe, self.seeds_sha256, models, digests(), programs]
        parts += [adapters] if adapters else []
        parts += (
            [{"forms": [FORMAT_CONSTRAINTS_VERSION, self.recipe.format_constraints.model_dump()]}]
            if self.recipe.format_constraints.share
            else []
        )
        parts += [{"contamination": self.decontaminator.digest}] if self.decontaminator else []
        return digest(parts)
