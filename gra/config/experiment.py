"""Define experiment recipes: arms, student, suites and seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gra.config.names import Name
from gra.config.section import Section
from gra.config.tracking import TrackingConfig

UNTUNED = "untuned"  # the student before its training, beside the arms

Part = Literal["train", "unreviewed"]


class ExperimentArmConfig(Section):
    """An arm with a recipe of its own, or one that trains on rows that another arm's synthesis made."""

    recipe: str | None = None
    of: Name | None = None
    part: Part | None = None
    rows: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_one_source(self) -> ExperimentArmConfig:
        if (self.recipe is None) == (self.of is None):
            raise ValueError("needs either `recipe` (a file) or `of` (an arm whose rows it shares)")
        if self.recipe is not None and self.part is not None:
            raise ValueError("has a `part` only with `of`: an arm with a `recipe` trains on its own accepted rows")
        return self


class ExperimentRecipe(Section):
    """Arms, a student, suites and training seeds: the whole job."""

    renamed = {"accept_licences": "`accept_licenses`"}

    name: Name
    arms: dict[Name, str | ExperimentArmConfig]
    student: str
    suite: str
    # Another suite for the figures that are reported, after every choice was made on `suite`.
    report_suite: str | None = None
    baseline: str
    training_seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    # Equal rows and equal optimizer steps make arms comparable.
    rows: int | None = Field(None, ge=1)
    train: dict[str, Any] = {}
    margin: float = Field(0.02, gt=0, lt=1)
    accept_licenses: list[str] = []
    # Whether programs that models write may run in the sandbox: for tasks of `kind: code`, and for
    # verifiers of `kind: tests` and `kind: functions`.
    allow_code_execution: bool = False
    tracking: TrackingConfig = TrackingConfig()

    def arm(self, name: str) -> ExperimentArmConfig:
        """Return an arm as a section; a text is its recipe."""
        arm = self.arms[name]
        return ExperimentArmConfig(recipe=arm) if isinstance(arm, str) else arm

    @property
    def recipes(self) -> dict[str, str]:
        """The recipe files of the arms that are synthesized."""
        return {name: file for name in self.arms if (file := self.arm(name).recipe) is not None}

    @property
    def derived(self) -> dict[str, str]:
        """The arms without synthesis of their own, with the arm whose rows they share."""
        return {name: of for name in self.arms if (of := self.arm(name).of) is not None}

    def part(self, name: str) -> Part:
        """Return the rows that an arm trains on: accepted ones, or candidates drawn without regard to review."""
        arm = self.arm(name)
        return arm.part or ("train" if arm.of is None else "unreviewed")

    def wanted_rows(self, name: str) -> int | None:
        """Return the rows that an arm's students train on; None for all that its dataset has."""
        return self.arm(name).rows or self.rows

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
