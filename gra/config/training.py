"""Define training recipes (the student, its data, the training method) and federations of several owners of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from gra.config.names import Name
from gra.config.section import Section
from gra.config.tracking import TrackingConfig
from gra.core.duplicates import repeated
from gra.core.errors import RecipeError

# Their rate depends on what a run has seen, so it is no function of the step.
_NO_FUNCTION_OF_STEPS = ("reduce_lr_on_plateau", "greedy")


class StudentConfig(Section):
    """The model to be trained, and its chat template in training and evaluation."""

    name: str
    revision: str | None = None
    # Lets a catalog model run the Python code it brings along, at the commit that the catalog pins.
    allow_remote_code: bool = False
    # Refuse any other weights; `recipe.resolved.yaml` of a trained student holds those it was made from.
    identity: str | None = None
    # A trained student's folder with a LoRA adapter of this model: training goes on from it.
    adapter: str | None = None
    # `nf4`: frozen weights in 4 bits (QLoRA); needs a CUDA GPU and the package bitsandbytes.
    quantization: Literal["nf4"] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    # A .jinja file; `builtin:plain` ends turns with the model's own end-of-sequence token; null keeps the model's.
    chat_template: str | None = None


class DataSourceConfig(Section):
    """One training file and its share of the mix."""

    path: str
    weight: float = Field(1.0, gt=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")  # refuse any other content


class HoldoutConfig(Section):
    """Rows held out for the evaluation loss, drawn with a seed of their own."""

    fraction: float = Field(0.0, ge=0, lt=1)
    seed: int = 0


class TrainingDataConfig(Section):
    """Training data: prompt-completion rows in Parquet or JSONL."""

    train: list[DataSourceConfig] = []
    holdout: HoldoutConfig = HoldoutConfig()
    # The share of rows that may be set aside because the chat template cannot write them; above 0, one row always may.
    max_bad: float = Field(0.01, ge=0, le=1)


class AdapterConfig(Section):
    """PEFT LoRA; null in the recipe trains every parameter."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class StopRateConfig(Section):
    """Greedy answers to held-out prompts after training, to report the share that end by themselves."""

    prompts: int = Field(12, ge=0)
    max_new_tokens: int = Field(64, ge=1)


class DistillTeacherConfig(Section):
    """The model whose next-token probabilities the student learns (`method: distill`)."""

    name: str
    revision: str | None = None
    allow_remote_code: bool = False  # as for `model`
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    # `same`: TRL's DistillationTrainer. `other`: TRL's GOLD, which aligns two vocabularies; experimental there.
    vocabulary: Literal["same", "other"] = "same"


class FusionTeacherConfig(Section):
    """A model whose next-token distributions on the rows' answers are fused (`method: fusion`)."""

    name: str
    revision: str | None = None
    allow_remote_code: bool = False  # as for `model`
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    chat_template: str | None = None  # as for `model`; the teacher reads the rows under its own template


class FusionConfig(Section):
    """How the distributions of several teachers become one target beside the answers (FuseLLM, arXiv 2401.10491)."""

    teachers: list[FusionTeacherConfig] = Field(min_length=1)
    # `min_ce`: the teacher that explains the row best. `average_ce`: all of them, weighted by how well they do.
    combine: Literal["min_ce", "average_ce"] = "min_ce"
    sft_weight: float = Field(0.9, ge=0, le=1)  # lambda of the paper; 1 is supervised training
    top_k: int = Field(10, ge=1, le=1000)
    # A folder for the teachers' distributions that several runs share; by default `fusion/` in the run's own.
    store: str | None = None

    @model_validator(mode="after")
    def _teachers_differ(self) -> FusionConfig:
        names = [teacher.name for teacher in self.teachers]
        if twice := repeated(names):
            raise ValueError(f"{twice[0]} is a teacher twice; name each teacher once")
        return self


class TrainRecipe(Section):
    """One fine-tuning run; `train` is checked field by field against the method's configuration in TRL."""

    renamed = {"probe": "`stop_rate`", "accept_licences": "`accept_licenses`"}

    name: Name
    method: Literal["sft", "preference", "distill", "reward", "fusion"] = "sft"
    model: StudentConfig
    teacher: DistillTeacherConfig | None = None
    fusion: FusionConfig | None = None
    data: TrainingDataConfig = TrainingDataConfig()
    lora: AdapterConfig | None = None
    train: dict[str, Any] = {}
    stop_rate: StopRateConfig = StopRateConfig()
    tracking: TrackingConfig = TrackingConfig()
    accept_licenses: list[str] = []

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained and the model's own weights stay as they are."""
        return self.lora is not None or self.model.adapter is not None

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainRecipe:
        if self.method == "distill" and self.teacher is None:
            raise ValueError("`method: distill` needs a `teacher` section")
        if self.method != "distill" and self.teacher is not None:
            raise ValueError(f"a `teacher` is for `method: distill`, not for `method: {self.method}`")
        if self.method == "fusion" and self.fusion is None:
            raise ValueError("`method: fusion` needs a `fusion` section with its `teachers`")
        if self.method != "fusion" and self.fusion is not None:
            raise ValueError(f"a `fusion` section is for `method: fusion`, not for `method: {self.method}`")
        if self.method == "fusion" and self.train.get("packing"):
            raise ValueError("`method: fusion` aligns rows one by one; leave `train.packing` out")
        if self.method == "fusion" and self.train.get("label_smoothing_factor"):
            raise ValueError(
                "`method: fusion` has the teachers' distributions; leave `train.label_smoothing_factor` out"
            )
        if self.method == "fusion" and self.train.get("loss_type", "nll") != "nll":
            raise ValueError("`method: fusion` adds to the usual loss; leave `train.loss_type` out")
        if self.method == "reward" and self.model.adapter is not None:
            raise ValueError(
                "`model.adapter` goes on from an adapter that writes answers, and `method: reward` trains another "
                "head; merge it into its model, and name that as `model.name`"
            )
        if self.method == "reward" and self.model.quantization is not None:
            raise ValueError(
                "`model.quantization` cannot be used with `method: reward`, which saves whole weights; leave it out"
            )
        if self.lora is not None and self.model.adapter is not None:
            raise ValueError("`model.adapter` brings its own rank and modules; leave the `lora` section out")
        if self.model.quantization is not None and not self.adapts:
            raise ValueError("`model.quantization` freezes the weights; add a `lora` section to train something")
        if self.model.quantization is not None and self.model.dtype != "bfloat16":
            raise ValueError("`model.quantization: nf4` computes in bfloat16; set `model.dtype: bfloat16`")
        return self


class FederationClientConfig(Section):
    """One owner of rows."""

    name: Name
    train: list[DataSourceConfig]


class FederationRecipe(TrainRecipe):
    """A federation: the keys of a training recipe, and the clients and rounds.

    `train.max_steps` counts the steps of a client in a round.
    """

    rounds: int = Field(5, ge=1)
    clients: list[FederationClientConfig] = Field(min_length=1)
    # `fedavg`: the mean by rows. `freeze_a`: A stays as it began, so the mean of B is exact. `stack`: the mean of BA.
    aggregate: Literal["fedavg", "freeze_a", "stack"] = "fedavg"
    least_clients: int = Field(1, ge=1)  # answers without which a round does not count
    # `local`: all clients in this process, one after another. `flower`: on their own machines, through Flower.
    transport: Literal["local", "flower"] = "local"
    timeout_s: float = Field(3600, gt=0)  # with `flower`: a client that takes longer has dropped out of the round
    superlink: str | None = None  # the connection of that name in Flower's configuration

    @model_validator(mode="after")
    def _can_be_federated(self) -> FederationRecipe:
        names = [client.name for client in self.clients]
        if twice := repeated(names):
            raise ValueError(f"two clients have the name {twice[0]}; give each client a name of its own")
        if empty := [client.name for client in self.clients if not client.train]:
            raise ValueError(f"the client {empty[0]} has no rows; name a file: train: [{{path: rows.parquet}}]")
        if self.least_clients > len(names):
            raise ValueError(f"`least_clients: {self.least_clients}` is more than there are clients ({len(names)})")
        if self.method != "sft":
            raise ValueError(f"a federation trains answers; `method: {self.method}` cannot be used in one")
        if not self.adapts:
            raise ValueError("only adapters are sent; add a `lora` section, or `model.adapter`")
        if self.data.train:
            raise ValueError("the rows belong to clients; move `data.train` to `train` of each client")
        steps = self.train.get("max_steps", -1)
        if isinstance(steps, int) and steps < 1:
            raise ValueError("`train.max_steps` is missing; it is the number of steps of a client in a round")
        if (schedule := self.train.get("lr_scheduler_type")) in _NO_FUNCTION_OF_STEPS:
            raise ValueError(
                f"`train.lr_scheduler_type: {schedule}` cannot be continued from round to round; write cosine or linear"
            )
        return self


def require_answers(recipe: TrainRecipe, where: Path) -> None:
    """Require a student that learns to answer from rows, which an experiment trains and evaluates.

    Args:
        recipe: the student's.
        where: the recipe's file.

    Raises:
        RecipeError: it becomes a reward model, or learns from pairs.
    """
    if recipe.method == "preference":
        raise RecipeError(
            "`method: preference` learns from pairs, and an experiment trains each student on an arm's rows; train it "
            "with `gra train` on `preferences.parquet`, and name a recipe of another method as `student`",
            where,
        )
    if recipe.method == "reward":
        raise RecipeError(
            "`method: reward` makes a reward model, and an experiment evaluates students that answer; train it with "
            "`gra train`, and name a recipe of another method as `student`",
            where,
        )
