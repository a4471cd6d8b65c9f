"""What a recipe may say: the sections of synthesis, training, evaluation and whole-experiment recipes.

The defaults of the synthesis sections are the paper's constants (Gao et al. 2025, arXiv 2504.12322).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gra.core.recipe import Section

Role = Literal["generator", "reviewer", "adjudicator"]
Ask = Literal["integers", "expected", "yes_no", "likelihood"]
DOMAINS = ("coding", "math", "qa", "reasoning", "role-play", "language", "creation")


class Sampling(Section):
    """How a member's tokens are drawn; lengths in tokens."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1)


class Member(Section):
    """One committee member: weights, a system prompt, sampling, and the way it is asked."""

    model: str
    fallback: str | None = None  # taken when `model` cannot be had
    system: str | None = None
    sampling: Sampling = Sampling()
    roles: list[Role] = ["generator", "reviewer", "adjudicator"]
    ask: Ask | None = None  # overrides review.ask for this member


def _member(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


MemberOrName = Annotated[Member, BeforeValidator(_member)]


class Committee(Section):
    """Who takes part and how roles are drawn (paper section 3.1)."""

    models: dict[str, MemberOrName]
    reviewers: int = Field(3, ge=0)
    assignment: Literal["random"] = "random"
    # true: a member whose model cannot be had is left out, with a note, as long as every role can be filled.
    allow_missing: bool = False

    @model_validator(mode="after")
    def _large_enough(self) -> Committee:
        for name, member in self.models.items():
            if member.ask == "likelihood" and set(member.roles) & {"adjudicator"}:
                raise ValueError(
                    f"`models.{name}` is asked by likelihood and can only review or generate; set its `roles`"
                )
        for role in ("generator", "adjudicator"):
            if not any(role in member.roles for member in self.models.values()):
                raise ValueError(f"needs at least one member with the role `{role}`")
        reviewers = sum("reviewer" in member.roles for member in self.models.values())
        if reviewers < self.reviewers:
            raise ValueError(f"asks for {self.reviewers} reviewers but only {reviewers} members may review")
        return self


class SeedSource(Section):
    """Where seeds come from: a .jsonl file for now."""

    source: str
    limit: int | None = Field(None, ge=1)


class Engine(Section):
    """How models are served; memory in GB."""

    kind: Literal["vllm"] = "vllm"
    max_model_len: int = Field(8192, ge=128)
    concurrency: int = Field(64, ge=1)
    kv_cache_gb: float | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    start_timeout_s: float = Field(900.0, gt=0)
    call_timeout_s: float = Field(600.0, gt=0)
    max_attempts: int = Field(3, ge=1)


class Rounds(Section):
    """How many rounds, how many accepted rows each, and how many candidates at most."""

    count: int = Field(5, ge=1)
    accept: int = Field(10_000, ge=1)  # rows kept per round
    max_candidates: int = Field(40_000, ge=1)


class Program(Section):
    """A program that reviews what can be checked: on a reviewer's seat, or with a veto."""

    # `math`: arithmetic; `format`: demands the instruction states; `consistency`: further answers; `tests`: unit tests.
    kind: Literal["math", "format", "consistency", "tests"]
    takes: Literal["seat", "veto"]
    domains: list[str] | None = None  # null: all
    # How many further answers `consistency` draws (null: 4), and who gives them (null: others).
    draws: int | None = Field(None, ge=2)
    by: Literal["author", "others"] | None = None

    @model_validator(mode="after")
    def _only_consistency_draws(self) -> Program:
        if self.kind != "consistency" and (self.draws, self.by) != (None, None):
            raise ValueError(f"`kind: {self.kind}` draws no answers; `draws` and `by` belong to `kind: consistency`")
        return self


class Review(Section):
    """The gate (paper: mean at least 8, standard deviation at most 1.5) and how reviewers are asked."""

    accept_mean: float = Field(8.0, ge=0, le=10)
    dispute_std: float = Field(1.5, ge=0)
    std: Literal["population", "sample"] = "population"
    ask: Ask = "integers"
    # `disputed`: reviewers say why only when the adjudicator will read it. `never` leaves the adjudicator the scores.
    comments: Literal["always", "disputed", "never"] = "always"
    # Planted pairs from the seeds, by which each reviewer is measured and calibrated; 0 trusts raw scores.
    probes: int = Field(0, ge=0)
    programs: list[Program] = []

    @model_validator(mode="after")
    def _each_program_once(self) -> Review:
        kinds = [program.kind for program in self.programs]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"`programs` has `kind: {twice[0]}` twice; a program takes a seat or a veto, not both")
        return self


class Dedup(Section):
    """Greedy embedding deduplication in descending score (paper: MiniLM, cosine below 0.9)."""

    embedder: str = "catalog:all-minilm-l6-v2"
    threshold: float = Field(0.9, gt=0, le=1)
    text: Literal["instruction", "instruction+response"] = "instruction"


class Budget(Section):
    """Hard caps over all resumes of a run; null means none."""

    tokens: int | None = Field(None, ge=1)


class Tracking(Section):
    """W&B: `auto` is online when the user is logged in and offline otherwise."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "gra"
    group: str | None = None


class SynthesisRecipe(Section):
    """One arm of data synthesis."""

    name: str
    seed: int = 0
    arm: Literal["vanilla", "distilled", "gra"] = "gra"
    seeds: SeedSource
    domains: list[str] = list(DOMAINS)
    committee: Committee | None = None
    teacher: MemberOrName | None = None
    engine: Engine = Engine()
    rounds: Rounds = Rounds()
    review: Review = Review()
    dedup: Dedup = Dedup()
    budget: Budget = Budget()
    tracking: Tracking = Tracking()
    accept_licences: list[str] = []

    @model_validator(mode="after")
    def _arm_has_its_models(self) -> SynthesisRecipe:
        if self.arm == "gra" and self.committee is None:
            raise ValueError("`arm: gra` needs a `committee`")
        if self.arm == "distilled" and self.teacher is None:
            raise ValueError("`arm: distilled` needs a `teacher`")
        asked: list[tuple[Ask | None, str]] = [(self.review.ask, "review.ask")]
        asked += [
            (m.ask, f"committee.models.{n}.ask") for n, m in (self.committee.models if self.committee else {}).items()
        ]
        for ask, key in asked:
            if ask == "likelihood" and not self.review.probes:
                raise ValueError(f"`{key}: likelihood` has no scale of its own; set `review.probes` to calibrate it")
        for program in self.review.programs:
            if unknown := sorted(set(program.domains or ()) - set(self.domains)):
                raise ValueError(
                    f"`review.programs`: `{program.kind}` is for the domain `{unknown[0]}`, which is not in `domains`"
                )
        return self


class StudentModel(Section):
    """The model to be trained and the template it is trained (and evaluated) under."""

    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    # A .jinja file; `builtin:plain` ends turns with the model's own end-of-sequence token; null keeps the model's.
    chat_template: str | None = None


class DataSource(Section):
    """One training file and its share of the mix."""

    path: str
    weight: float = Field(1.0, gt=0)


class Holdout(Section):
    """Rows kept back for the evaluation loss, drawn with their own seed."""

    fraction: float = Field(0.0, ge=0, lt=1)
    seed: int = 0


class TrainingData(Section):
    """What is trained on: prompt-completion Parquet or JSONL."""

    train: list[DataSource] = []
    holdout: Holdout = Holdout()


class Lora(Section):
    """PEFT LoRA; null in the recipe trains every parameter."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class Probe(Section):
    """Greedy answers to held-out prompts after training, to report the share that end by themselves."""

    prompts: int = Field(12, ge=0)
    max_new_tokens: int = Field(64, ge=1)


class TrainRecipe(Section):
    """One fine-tuning run; `train` is checked field by field against the installed trl.SFTConfig."""

    name: str
    model: StudentModel
    data: TrainingData = TrainingData()
    lora: Lora | None = None
    train: dict[str, Any] = {}
    probe: Probe = Probe()
    tracking: Tracking = Tracking()
    accept_licences: list[str] = []


class Generation(Section):
    """Greedy decoding of the answers that are checked; length in tokens."""

    max_new_tokens: int = Field(256, ge=1)


class SuiteTask(Section):
    """One task of a suite: verifiable instructions, programs that must pass tests, or choices scored by likelihood."""

    name: str = Field(pattern=r"^[\w.-]+$")
    kind: Literal["instructions", "likelihood", "code"]
    data: str  # a JSONL file, or catalog:NAME
    limit: int | None = Field(None, ge=1)
    seed: int = 0  # which items, when there is a limit
    # Whether the prompt goes through the chat template; null: everything does but likelihood and `prompt: continue`.
    chat: bool | None = None
    # How an item is put: "Question: ... Answer:" or, for code, a request; or the bare text that the answer continues.
    prompt: Literal["question", "continue"] = "question"


class Suite(Section):
    """What a model is asked in evaluation."""

    name: str
    tasks: list[SuiteTask] = Field(min_length=1)
    generation: Generation = Generation()
    batch_size: int = Field(16, ge=1)
    backend: Literal["hf", "vllm"] = "hf"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _task_names_differ(self) -> Suite:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tasks have the same `name` ({', '.join(twice)})")
        return self


class Experiment(Section):
    """Arms, a student, a suite and seeds tied together: the whole job."""

    name: str
    arms: dict[str, str]
    student: str
    suite: str
    baseline: str
    training_seeds: list[int] = Field([0], min_length=1)
    # Equal optimiser steps make the arms comparable whatever their sizes.
    train: dict[str, Any] = {}
    margin: float = Field(0.02, gt=0, lt=1)
    accept_licences: list[str] = []
    # Whether programs that students write may run in the sandbox; needed for suites with `kind: code`.
    allow_code_execution: bool = False
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Experiment:
        if self.baseline not in self.arms:
            raise ValueError(f"`baseline: {self.baseline}` is not one of the arms ({', '.join(self.arms)})")
        return self
