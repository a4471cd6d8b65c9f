"""Define experiment recipes: arms, student, suites and seeds; and experiments of a teacher and a student in rounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gra.config.committee import EngineConfig, MemberOrName
from gra.config.names import Name
from gra.config.section import Section
from gra.config.synthesis import SeedsConfig
from gra.config.tracking import TrackingConfig
from gra.core.duplicates import repeated

UNTUNED = "untuned"  # the student before its training, beside the arms

Part = Literal["train", "unreviewed"]
Draw = Literal["even", "best", "seeds"]
_Key = Annotated[str, Field(pattern=r"^[^=\s]+$")]  # of a recipe, with dots between its parts


class ExperimentArmConfig(Section):
    """An arm with a recipe of its own, or one that trains on rows that another arm's synthesis made."""

    recipe: str | None = None
    changes: dict[_Key, Any] = {}  # keys of the recipe, such as `rounds.parent_count`, with values that replace its own
    of: Name | None = None
    part: Part | None = None
    rows: int | None = Field(None, ge=1)
    # even: drawn without regard to scores. best: those with the highest scores. seeds: in the proportions of the seeds
    # (domains, format constraints, lengths of responses).
    draw: Draw = "even"

    @model_validator(mode="after")
    def _has_one_source(self) -> ExperimentArmConfig:
        if (self.recipe is None) == (self.of is None):
            raise ValueError("needs either `recipe` (a file) or `of` (an arm whose rows it shares)")
        if self.recipe is not None and self.part is not None:
            raise ValueError("has a `part` only with `of`: an arm with a `recipe` trains on its own accepted rows")
        if self.recipe is None and self.changes:
            raise ValueError("has `changes` only with `recipe`: an arm with `of` takes the other one's rows")
        if self.draw == "best" and self.of is not None and self.part != "train":
            raise ValueError("`draw: best` is for accepted rows; set `part: train`, or leave it out")
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

    def draw(self, name: str) -> Draw:
        """Return which of its rows an arm trains on."""
        return self.arm(name).draw

    def wanted_rows(self, name: str) -> int | None:
        """Return the rows that an arm's students train on; None for all that its dataset has."""
        return self.arm(name).rows or self.rows

    @model_validator(mode="after")
    def _drawn_rows_are_some_of_them(self) -> ExperimentRecipe:
        for name in self.arms:
            if self.draw(name) != "even" and self.wanted_rows(name) is None:
                raise ValueError(
                    f"`arms.{name}.draw: {self.draw(name)}` takes some of the rows; set `rows`, here or of the arm"
                )
        return self

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


class SymbiosisRecipe(Section):
    """A teacher and a student that make training rows for each other in rounds (AgentSymbiotic, arXiv 2502.07942)."""

    name: Name
    seed: int = 0
    # Problems whose responses end in a number: those of the rounds, and others that measure.
    problems: SeedsConfig
    held_out: SeedsConfig
    store: str | None = None  # a file with solutions that the store begins with
    teacher: MemberOrName
    student: MemberOrName
    training: str  # the student's training recipe, with LoRA
    train: dict[str, Any] = {}
    training_seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    rounds: int = Field(2, ge=1, le=100)
    draws: int = Field(4, ge=1, le=100)  # solutions of each problem, by each of the two, in a round
    choices: int = Field(4, ge=1, le=64)  # lines that the teacher draws at each step
    temperature: float = Field(0.8, gt=0, le=2)
    control_temperature: float = Field(1.0, gt=0, le=2)  # of the control, whose store is the teacher's alone
    # How much less likely than its own the teacher may find a line that passes, in nats a token.
    tolerance: float | None = Field(0.5, ge=0, le=100)  # null: only equal lines pass
    neighbors: int = Field(3, ge=0, le=20)  # solved problems that the teacher sees
    lines: int = Field(8, ge=1, le=50)  # of a solution
    line_tokens: int = Field(48, ge=1, le=10_000)
    rationale_weight: float = Field(1.0, gt=0, le=100)  # lambda: how often each rationale is in the rows
    embedder: str = "catalog:all-minilm-l6-v2"
    engine: EngineConfig = EngineConfig()
    tracking: TrackingConfig = TrackingConfig()
    accept_licenses: list[str] = []

    @model_validator(mode="after")
    def _two_models_work_together(self) -> SymbiosisRecipe:
        if (self.teacher.model, self.teacher.adapter) == (self.student.model, self.student.adapter):
            raise ValueError(
                f"`teacher` and `student` are the same model ({self.student.model}), which learns nothing from itself; "
                "name a larger one as `teacher`"
            )
        if self.student.adapter is not None or self.student.fallback is not None:
            key = "adapter" if self.student.adapter is not None else "fallback"
            raise ValueError(f"`student.{key}` cannot be used: its adapter is trained here; leave it out")
        if self.student.system is not None:
            raise ValueError("`student.system` cannot be used: the rows it is trained on have none; leave it out")
        if self.engine.weights is not None:
            raise ValueError("`engine.weights` cannot be used, because 8-bit weights take no adapter; leave it out")
        if (self.student.engine or self.engine).kind == "openai":
            raise ValueError(
                "`student` runs behind a server, which cannot load the adapters that are trained here; give it "
                "`engine: {kind: vllm}`"
            )
        for name, member in (("teacher", self.teacher), ("student", self.student)):
            if member.ask is not None:
                raise ValueError(f"`{name}.ask` is for reviewers, and nothing is reviewed; leave it out")
        return self

    @model_validator(mode="after")
    def _seeds_of_training_are_given_once(self) -> SymbiosisRecipe:
        if "seed" in self.train:
            raise ValueError("`train.seed` would be the same for every student; write `training_seeds: [...]`")
        if twice := repeated([str(seed) for seed in self.training_seeds]):
            raise ValueError(f"`training_seeds` has {twice[0]} twice, which would count one student as two")
        return self
