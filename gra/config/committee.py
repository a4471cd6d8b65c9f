"""Define the sections on models: how they are served and asked, and the committee."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from gra.config.section import Section
from gra.core.types import Dimension

Role = Literal["generator", "reviewer", "adjudicator", "enricher"]
Ask = Literal["integers", "expected", "yes_no", "likelihood", "logprob", "agreement", "reference", "reward"]
# These give one number a response, on a scale of their own, and ask no question about dimensions.
NUMBER_ASKS: tuple[Ask, ...] = ("likelihood", "logprob", "agreement", "reference", "reward")
# These look for the one right answer, which an open request does not have.
ANSWER_ASKS: tuple[Ask, ...] = ("logprob", "agreement", "reference")
DomainKind = Literal["open", "closed"]  # whether a recipe names the domain in `review.open_domains`


def is_asked(ask: Ask, asked_in: DomainKind | None, kind: DomainKind) -> bool:
    """Return whether a reviewer is asked in domains of a kind.

    In open domains reviewers that look for the right answer are not asked. In the others `likelihood` is not: it sees
    what a response is about, and not whether it is right.

    Args:
        ask: how the reviewer is asked.
        asked_in: what the recipe says of this reviewer; None leaves it to `ask`.
        kind: of the domains.
    """
    if asked_in is not None:
        return asked_in == kind
    return ask not in (ANSWER_ASKS if kind == "open" else ("likelihood",))


def _each_once(dimensions: list[Dimension]) -> list[Dimension]:
    if len(set(dimensions)) < len(dimensions):
        raise ValueError(f"name each dimension once; you set {', '.join(dimensions)}")
    return dimensions


Dimensions = Annotated[list[Dimension], Field(min_length=1), AfterValidator(_each_once)]


def _is_address(value: str) -> bool:
    """Return whether a text is a whole web address whose host and port can exist."""
    try:
        parts = urlsplit(value)
        host = (parts.hostname or "").encode("idna")  # refuses `a..b` and labels of more than 63 characters
        return (
            parts.scheme in ("http", "https")
            and host != b""
            and parts.port != 0
            and value.isprintable()
            and " " not in value
        )
    except ValueError:
        return False


class SamplingConfig(Section):
    """Sampling of a member's answers; lengths in tokens. A setting of null is not sent to the engine."""

    temperature: float | None = Field(0.7, ge=0)
    top_p: float | None = Field(0.95, gt=0, le=1)
    repetition_penalty: float | None = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1, le=10_000_000)


class BackendConfig(Section):
    """Where a model runs: in vLLM on this machine or on a Ray cluster, or behind an OpenAI-compatible server."""

    kind: Literal["vllm", "openai", "ray"] = "vllm"
    base_url: str | None = None  # of a server, such as http://localhost:8000/v1
    api_key_env: str | None = None  # the environment variable that holds the key; the key itself stands nowhere
    # Identity of the server for recorded answers in place of `base_url`, where its address changes between runs.
    served_as: str | None = Field(None, min_length=1)
    concurrency: int = Field(64, ge=1, le=10_000)  # calls at once; on a cluster, of each replica
    # Of a Ray cluster: its address (null: the cluster of this machine), and replicas of each model (null: 1).
    # `gpus` and `cpus` are what a replica takes (null: 1 of each; with `gpus: 0` it computes on `cpus`).
    address: str | None = None
    replicas: int | None = Field(None, ge=1, le=10_000)
    gpus: float | None = Field(None, ge=0)
    cpus: float | None = Field(None, gt=0, le=100_000)

    @field_validator("api_key_env")
    @classmethod
    def _a_name_and_not_a_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError("must be the NAME of an environment variable (capital letters, digits, _), never a key")
        return value

    @field_validator("base_url")
    @classmethod
    def _an_address_and_nothing_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _is_address(value):
            raise ValueError("must be a whole address, such as http://localhost:8000/v1")
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no user, password or query; name the key's variable in `api_key_env`")
        return value

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> Self:
        if self.kind == "openai" and self.base_url is None:
            raise ValueError("`kind: openai` needs a `base_url`, such as http://localhost:8000/v1")
        if self.kind != "openai":
            extra = [key for key in ("base_url", "api_key_env", "served_as") if getattr(self, key) is not None]
            if extra:
                raise ValueError(f"`{extra[0]}` belongs to a server; add `kind: openai`, or leave it out")
        if self.kind != "ray":
            extra = [key for key in ("address", "replicas", "gpus", "cpus") if getattr(self, key) is not None]
            if extra:
                raise ValueError(f"`{extra[0]}` belongs to a Ray cluster; add `kind: ray`, or leave it out")
        elif self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                "`address` is the head's own, such as 10.0.0.1:6379; a run starts on a machine of the cluster"
            )
        elif self.gpus is not None and self.gpus > 1:
            raise ValueError("`gpus` is what one replica takes, at most 1: a model is not split over several GPUs")
        return self


class EngineConfig(BackendConfig):
    """How models are served; memory in GB."""

    renamed = {"park": "`offload`"}

    max_model_len: int = Field(8192, ge=128, le=100_000_000)
    kv_cache_gb: float | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    # How a model is offloaded where memory does not hold all of them. `sleep-1` keeps its weights in the machine's
    # memory, `sleep-2` drops them (both on CUDA only), `end` ends its process. `auto`: the fastest that fits.
    offload: Literal["auto", "sleep-1", "sleep-2", "end"] = "auto"
    start_timeout_s: float = Field(900.0, gt=0, le=1e7)
    call_timeout_s: float = Field(600.0, gt=0, le=1e7)
    max_attempts: int = Field(3, ge=1, le=1000)
    # CPU threads of each model; null: all cores. Fewer are faster where other programs use the cores too.
    threads: int | None = Field(None, ge=1, le=4096)
    # int8: vLLM on a CPU computes with 8-bit weights and activations (W8A8), written once from the model's own weights.
    # null: as they are. Answers are recorded apart.
    weights: Literal["int8"] | None = None

    @model_validator(mode="after")
    def _int8_is_for_this_machine(self) -> EngineConfig:
        if self.weights is not None and self.kind != "vllm":
            raise ValueError(
                f"`weights: {self.weights}` is for models served by vLLM on this machine's CPU, not with `kind: "
                f"{self.kind}`; leave `weights` out"
            )
        return self


class MemberConfig(Section):
    """One committee member: weights, adapter, system prompt, sampling, roles and how it is asked."""

    model: str = Field(min_length=1)
    adapter: str | None = None  # folder of a LoRA adapter of `model`; members may share weights
    fallback: str | None = None  # taken when `model` cannot be had
    system: str | None = None
    sampling: SamplingConfig = SamplingConfig()
    roles: list[Role] = Field(["generator", "reviewer", "adjudicator", "enricher"], min_length=1)
    ask: Ask | None = None  # overrides review.ask for this member
    dimensions: Dimensions | None = None  # overrides review.dimensions for this member
    # Own answers of a reviewer asked by `agreement` (null: 4). Members that differ in `draws` alone share answers.
    draws: int | None = Field(None, ge=1, le=64)
    # Where the recipe names `review.open_domains`: the domains that a reviewer is asked in. null: as `ask` says.
    asked_in: DomainKind | None = None
    engine: BackendConfig | None = None  # where this member's model runs; null: where the recipe's `engine` says
    family: str | None = None  # models of one pre-training run share it; null: as the catalog says

    @model_validator(mode="after")
    def _an_adapter_fits_one_model(self) -> Self:
        if self.adapter is not None and self.fallback is not None:
            raise ValueError("has an `adapter`, which fits `model` alone; leave `fallback` out")
        return self

    @model_validator(mode="after")
    def _one_number_has_no_dimensions(self) -> Self:
        if self.dimensions and self.ask in NUMBER_ASKS:
            raise ValueError(f"is asked by {self.ask}, which gives one number; leave `dimensions` out")
        return self

    @model_validator(mode="after")
    def _only_reviewers_are_asked(self) -> Self:
        if self.asked_in is not None and "reviewer" not in self.roles:
            raise ValueError("`asked_in` is for reviewers; leave it out, or add the role `reviewer`")
        return self

    @model_validator(mode="after")
    def _only_agreement_draws(self) -> Self:
        if self.draws is not None and self.ask != "agreement":
            raise ValueError("`draws` belongs to `ask: agreement`; leave it out, or set `ask` for this member")
        if self.draws is not None and self.draws > 1 and self.sampling.temperature == 0:
            raise ValueError("would draw the same answer again at temperature 0; raise `sampling.temperature`")
        return self

    @model_validator(mode="after")
    def _a_reward_model_only_reviews(self) -> Self:
        if self.ask != "reward":
            return self
        if self.roles != ["reviewer"]:
            raise ValueError("is asked by reward, so its model writes no text; set `roles: [reviewer]`")
        if self.adapter is not None:
            raise ValueError("is asked by reward, which takes no `adapter`; merge it into the model")
        if self.engine is not None and self.engine.kind == "openai":
            raise ValueError("is asked by reward, which a server cannot answer; set its `engine: {kind: vllm}`")
        return self


class TeacherConfig(MemberConfig):
    """The large model of the `distilled` arm: it answers the seeds, or writes new samples from them."""

    writes: Literal["answers", "samples"] = "answers"


def _member(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


MemberOrName = Annotated[MemberConfig, BeforeValidator(_member)]
TeacherOrName = Annotated[TeacherConfig, BeforeValidator(_member)]


class CompetenceConfig(Section):
    """How members are chosen by measured competence (`assignment: competence`)."""

    # What the most expensive member's whole cost is worth, in probability of being right.
    price: float = Field(0.1, ge=0, le=10)
    random: float = Field(0.1, ge=0, le=1)  # share of candidates whose roles are drawn, so that all stay in use


class CommitteeConfig(Section):
    """Members of the committee, and how roles are assigned (paper section 3.1)."""

    models: dict[str, MemberOrName]
    reviewers: int = Field(3, ge=0)
    # random: drawn for every candidate (the paper). balanced: every pair of generator and reviewer equally often.
    # fixed: the same roles for all candidates. single: one member in every role. competence: who is right on what.
    assignment: Literal["random", "balanced", "fixed", "single", "competence"] = "random"
    competence: CompetenceConfig | None = None  # of `assignment: competence`; null: its defaults
    lead: str | None = None  # generates under `fixed`, has every role under `single`; null: the first possible
    # true: a member without its model is left out, with a note, while the other members can fill every role.
    allow_missing: bool = False

    @model_validator(mode="after")
    def _large_enough(self) -> CommitteeConfig:
        for name, member in self.models.items():
            if member.ask in NUMBER_ASKS and set(member.roles) & {"adjudicator"}:
                raise ValueError(
                    f"`models.{name}` is asked by {member.ask} and can only review or generate; set its `roles`"
                )
        if not any("generator" in member.roles for member in self.models.values()):
            raise ValueError("needs at least one member with the role `generator`")
        reviewers = sum("reviewer" in member.roles for member in self.models.values())
        if reviewers < self.reviewers:
            raise ValueError(f"asks for {self.reviewers} reviewers but only {reviewers} members may review")
        return self

    @model_validator(mode="after")
    def _competence_serves(self) -> CommitteeConfig:
        if self.competence is not None and self.assignment != "competence":
            raise ValueError(
                f"has a `competence` section only with `assignment: competence`, not `{self.assignment}`; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _lead_can_lead(self) -> CommitteeConfig:
        if self.lead is not None:
            if self.lead not in self.models:
                raise ValueError(f"names `lead: {self.lead}`, who is not among its models ({', '.join(self.models)})")
            if self.assignment not in ("fixed", "single"):
                raise ValueError(f"has a `lead` only with `assignment: fixed` or `single`, not `{self.assignment}`")
        if self.assignment == "single" and self.reviewers > 1:
            raise ValueError(
                "cannot have more than one review of a `single` member: asked twice, it says the same twice; "
                "set `reviewers: 1` (it reviews itself) or `reviewers: 0`"
            )
        return self
