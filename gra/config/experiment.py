"""Define experiment recipes: arms, student, suite and seeds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from gra.config.names import Name
from gra.config.section import Section
from gra.config.tracking import TrackingConfig

UNTUNED = "untuned"  # the student before its training, beside the arms


class DerivedArmConfig(Section):
    """An arm without synthesis of its own: as many rows as another arm's, drawn from its unreviewed candidates."""

    of: Name


class ExperimentRecipe(Section):
    """Arms, a student, a suite and training seeds: the whole job."""

    renamed = {"accept_licences": "`accept_licenses`"}

    name: Name
    arms: dict[Name, str | DerivedArmConfig]  # a recipe, or `{of: ARM}`: that arm's unreviewed candidates
    student: str
    suite: str
    baseline: str
    training_seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    # Equal optimizer steps make arms of different sizes comparable.
    train: dict[str, Any] = {}
    margin: float = Field(0.02, gt=0, lt=1)
    accept_licenses: list[str] = []
    # Whether programs that models write may run in the sandbox: for tasks of `kind: code`, reviews of `kind: tests`.
    allow_code_execution: bool = False
    tracking: TrackingConfig = TrackingConfig()

    @property
    def recipes(self) -> dict[str, str]:
        """The recipe files of the arms that are synthesized."""
        return {name: arm for name, arm in self.arms.items() if isinstance(arm, str)}

    @property
    def derived(self) -> dict[str, str]:
        """The arms of unreviewed candidates, with the arm that they are drawn from."""
        return {name: arm.of for name, arm in self.arms.items() if isinstance(arm, DerivedArmConfig)}

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> ExperimentRecipe:
        if self.baseline not in self.arms:
            raise ValueError(f"`baseline: {self.baseline}` is not one of the arms ({', '.join(self.arms)})")
        for name, of in self.derived.items():
            if of not in self.recipes:
                raise ValueError(f"`arms.{name}.of: {of}` is not an arm with a recipe ({', '.join(self.recipes)})")
        if UNTUNED in self.arms:
            raise ValueError(f"an arm cannot be called `{UNTUNED}`; that is the student before its training")
        if len(set(self.training_seeds)) < len(self.training_seeds):
            raise ValueError("`training_seeds` has a seed twice, which would count one student as two")
        return self

    @model_validator(mode="after")
    def _seeds_of_training_are_its_own(self) -> ExperimentRecipe:
        if "seed" in self.train:
            raise ValueError("`train.seed` would be the same for every student; write `training_seeds: [...]`")
        return self
