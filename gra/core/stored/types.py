"""Types of the files in a run folder, as far as GRA reads them back; further keys are allowed everywhere."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

_OPEN = with_config(ConfigDict(extra="allow", strict=True))


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError("is not the name of a file in this folder")
    return name


def _bounded(value: float) -> float:
    if not math.isnan(value) and not abs(value) <= 1e15:
        raise ValueError("is too large")
    return value


Count = Annotated[int, Field(ge=0, le=2**62)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Metric = Annotated[float, AfterValidator(_bounded)]  # a training that diverged writes NaN
_ROUNDING = 1e-9  # a share that is computed as a sum of parts may lie beyond its bounds by this much
Share = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING, allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Object = dict[str, Any]
StateName = Literal["accepted", "rejected", "duplicate", "contaminated", "surplus", "failed"]


@_OPEN
class StoredSection(TypedDict, total=False):
    """Section of a manifest: the stage's files with their digests, and where it ran."""

    files: Required[dict[Annotated[str, AfterValidator(_inside)], str]]
    environment: Environment
    fingerprint: str


@_OPEN
class Environment(TypedDict, total=False):
    """Versions and hardware of a stage."""

    packages: dict[str, str]


@_OPEN
class ModelFacts(TypedDict, total=False):
    """A resolved model."""

    name: Required[str]
    identity: str
    licence: str | None
    source_note: str | None
    origin: str | None
    weights: str | None
    parameters: Count | None


@_OPEN
class MemberFacts(TypedDict, total=False):
    """A committee member."""

    model: Required[str]
    ask: str | None
    roles: list[str]


@_OPEN
class ReviewerFacts(TypedDict, total=False):
    """Scores of a reviewer on control items."""

    auc: Required[Share | None]
    good: list[Number]
    bad: list[Number]
    unanswered: Count


@_OPEN
class KindFacts(TypedDict):
    """How well a reviewer separates one fault kind from good items."""

    auc: Share
    low: Share
    high: Share
    good: Count
    bad: Count


@_OPEN
class PanelStatisticsFacts(TypedDict):
    """What control items say about a panel (gra/stats/panel.py)."""

    auc: KindFacts
    best: Annotated[list[str | Number | None], Field(min_length=2, max_length=2)]
    gain: Annotated[list[Number | None], Field(min_length=3, max_length=3)]
    alpha: Number | None
    votes: Number | None
    severity: dict[str, Number | None]
    length_bias: dict[str, Number | None]
    own_family: dict[str, Number | None]
    curve: list[Annotated[list[Number], Field(min_length=3, max_length=3)]]
    clones: list[list[str]]


@_OPEN
class WeightFacts(TypedDict):
    """Fitted weights of a panel."""

    used: bool
    weights: dict[str, Number]


@_OPEN
class StopFacts(TypedDict):
    """When an adaptive review stops."""

    order: list[str]
    changed: Share
    cost: Share


@_OPEN
class ChainFacts(TypedDict):
    """What a chain of reviewers is worth on control items (gra/stats/chain.py)."""

    order: list[str]
    combine: str
    accuracy: Share
    macro_f1: Share
    links: dict[str, Share]
    batch: Share
    full: Share
    random: Share
    gain: Annotated[list[Number], Field(min_length=3, max_length=3)]
    shares: dict[str, Share]
    cost: Share


@_OPEN
class CheckFacts(TypedDict):
    """Control instructions that the instruction checks rejected."""

    rejected: Share
    items: Count


@_OPEN
class PanelFacts(TypedDict, total=False):
    """A panel that was fitted on control items of several kinds."""

    aggregate: Required[str]
    strategy: Required[str]
    target: Required[str]
    items: Required[dict[str, Count]]
    kinds: Required[dict[str, dict[str, KindFacts]]]
    costs: Required[dict[str, Number]]
    statistics: Required[PanelStatisticsFacts | None]
    weights: Required[WeightFacts | None]
    stop: Required[StopFacts | None]
    chain: ChainFacts
    instruction_checks: dict[str, CheckFacts]


@_OPEN
class RoutingFacts(TypedDict):
    """What choosing one member an item by competence is worth (gra/stats/competence.py)."""

    questions: Count
    router: Share
    best: Annotated[dict[str, Share], Field(min_length=1, max_length=1)]
    random: Share
    oracle: Share
    gain: Annotated[list[Number], Field(min_length=3, max_length=3)]
    differs: Share


@_OPEN
class CompetenceFacts(TypedDict):
    """What members are right on."""

    generators: RoutingFacts | None
    reviewers: RoutingFacts | None


class StoredSpent(TypedDict, total=False):
    """Calls and tokens."""

    calls: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count


@_OPEN
class UsedTokens(StoredSpent):
    """Calls and tokens of one kind of work, role and model, also where another run paid for them."""

    work: str
    role: str
    model: str


@_OPEN
class SynthesisSection(StoredSection, total=False):
    """Section of a synthesis run."""

    name: str
    arm: str
    states: dict[str, Count]
    funnel: dict[str, Count]
    tokens_by_role: dict[str, StoredSpent]
    tokens_by_model: dict[str, StoredSpent]
    used: list[UsedTokens]
    models: dict[str, ModelFacts]
    members: dict[str, MemberFacts]
    reviewers: dict[str, ReviewerFacts]
    shared_weights: dict[str, list[str]]
    committee_auc: Share | None
    panel: PanelFacts
    competence: CompetenceFacts
    stopped: list[str]
    missing_models: dict[str, str]
    prompts: dict[str, str]
    seeds_sha256: str


@_OPEN
class TrainingSection(StoredSection, total=False):
    """Section of a trained student."""

    model: ModelFacts
    inputs: Object


@_OPEN
class ExperimentSection(StoredSection, total=False):
    """Section of an experiment."""

    arms: dict[str, Any] | list[str]


@_OPEN
class Manifest(TypedDict, total=False):
    """manifest.json: one section for each stage."""

    manifest_version: int
    synthesis: SynthesisSection
    training: TrainingSection
    experiment: ExperimentSection
    evaluation: StoredSection


@_OPEN
class ReviewSettings(TypedDict, total=False):
    """`review` of a resolved recipe."""

    accept_mean: Number | None
    dispute_std: Number | None


@_OPEN
class DedupSettings(TypedDict, total=False):
    """`dedup` of a resolved recipe."""

    embedder: str


@_OPEN
class TeacherSettings(TypedDict, total=False):
    """`teacher` of a resolved recipe."""

    model: str
    name: str
    fallback: str | None


@_OPEN
class ResolvedRecipe(TypedDict, total=False):
    """recipe.resolved.yaml."""

    review: ReviewSettings
    dedup: DedupSettings
    teacher: TeacherSettings | None
    ledger: str | None
    arms: dict[str, Any]


@_OPEN
class TrainRows(TypedDict, total=False):
    """Rows of one split."""

    rows: Count


@_OPEN
class SplitRows(TypedDict, total=False):
    """Rows by split."""

    train: TrainRows


@_OPEN
class StopRate(TypedDict):
    """Held-out prompts and how many answers ended by themselves."""

    stopped: Count
    prompts: Count


@_OPEN
class Metrics(TypedDict, total=False):
    """metrics.json of a trained student."""

    rows: SplitRows
    steps: Count | None
    epochs: Metric | None
    tokens: Count | None
    tokens_per_second: Metric | None
    seconds: Time | None
    loss_first: Metric | None
    loss: Metric | None
    eval_loss: Metric | None
    stop: StopRate | None


@_OPEN
class LogEntry(TypedDict, total=False):
    """A step of the trainer's log."""

    step: Count
    loss: Metric
    eval_loss: Metric


@_OPEN
class TrainerState(TypedDict, total=False):
    """trainer_state.json of a checkpoint."""

    log_history: list[LogEntry]


@_OPEN
class Event(TypedDict):
    """Any line of log.jsonl."""

    time: Time
    event: str


@_OPEN
class NoteEvent(Event):
    """A sentence for the user."""

    text: str


@_OPEN
class StageEvent(Event):
    """The end of a stage."""

    name: str
    began: Time
    ended: Time
    outcome: Literal["done", "interrupted", "failed", "killed", "open"]


@_OPEN
class CandidateEvent(Event):
    """The end of a candidate."""

    arm: str
    id: str
    state: StateName


@_OPEN
class EngineEvent(Event, total=False):
    """Calls and tokens of an engine."""

    name: Required[str]
    calls: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count


EVENTS: dict[str, Any] = {
    "note": NoteEvent,
    "stage": StageEvent,
    "candidate": CandidateEvent,
    "engine": EngineEvent,
}
