"""Types of a row of lineage.parquet, its JSON columns parsed, and of a recorded request."""

from __future__ import annotations

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from gra.core.stored.types import Count, Number, StateName, Time

_OPEN = with_config(ConfigDict(extra="allow", strict=True))


@_OPEN
class Check(TypedDict):
    """A reviewer's verdict on an instruction."""

    reviewer: str
    values: dict[str, Number]
    failed: list[str]


@_OPEN
class Verification(TypedDict, total=False):
    """A verifier's verdict."""

    outcome: Required[Literal["passed", "failed", "abstained"]]
    program: Required[str]
    takes: Required[Literal["seat", "veto"]]
    held: list[str]
    broken: list[str]
    score: Number
    why: str


@_OPEN
class ReviewRow(TypedDict):
    """A reviewer's scores of a response."""

    reviewer: str
    values: dict[str, Number]
    raw: Number
    score: Number
    comment: str


@_OPEN
class RulingRow(TypedDict):
    """The adjudicator's decision."""

    adjudicator: str
    values: dict[str, Number]
    score: Number
    comment: str
    kept: bool


@_OPEN
class Alternative(TypedDict):
    """A response that was not taken."""

    number: Count
    response: str
    reason: str
    reviews: list[ReviewRow]
    mean: Number | None
    std: Number | None
    ruling: RulingRow | None


@_OPEN
class Contamination(TypedDict):
    """What a candidate shares with a suite."""

    verdict: Literal["clean", "suspect", "contaminated"]
    matches: Count
    task: str
    item: str
    method: str
    score: Number
    longest: Count
    text: str
    row_text: str


@_OPEN
class DecisionRow(TypedDict):
    """What a person decided."""

    reviewer: str
    verdict: Literal["keep", "drop", "edit", "skip", "undo"]
    written: Time
    subject: str
    instruction: str
    response: str


@_OPEN
class StoredUsage(TypedDict):
    """Calls and tokens of a role."""

    calls: Count
    prompt_tokens: Count
    completion_tokens: Count


@_OPEN
class LineageRow(TypedDict, total=False):
    """A candidate."""

    candidate_id: Required[str]
    round: Required[Count]
    index: Required[Count]
    domain: Required[str]
    state: Required[StateName]
    reason: Required[str]
    arm: Required[str]
    generator: Required[str]
    adjudicator: Required[str]
    instruction: Required[str]
    response: Required[str]
    neighbour: Required[str]
    tests: str | None
    reviewers: Required[list[str]]
    parents: Required[list[str]]
    keywords: Required[list[str]]
    calls: Required[list[str]]
    mean: Required[Number | None]
    std: Required[Number | None]
    similarity: Required[Number | None]
    disputed: Required[bool]
    checks: Required[list[Check]]
    programs: Required[list[Verification]]
    reviews: Required[list[ReviewRow]]
    ruling: Required[RulingRow | None]
    drafts: Required[list[Alternative]]
    contamination: Required[Contamination | None]
    usage: Required[dict[str, StoredUsage]]
    decisions: list[DecisionRow]


Lineage = list[LineageRow]


@_OPEN
class Request(TypedDict):
    """A request as the ledger has it: its messages are pairs of a role and a text."""

    messages: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
