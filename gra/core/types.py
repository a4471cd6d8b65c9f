"""Define the values of synthesis: seed, check, review, verification, ruling and candidate.

They are frozen and convert to JSON and back. So the ledger, the lineage file and `gra explain` agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

from gra.core.hashing import digest
from gra.core.stored.release_0_1 import read_failure_cause, read_rejected_at
from gra.core.text.characters import well_formed
from gra.core.vocabulary import FailureCause, HumanVerdict, RejectedAt

CHECKS = ("reasonable", "complete", "clear")  # paper section 3.2: three binary criteria for an instruction
# Further criteria, each about one fault that small generators make.
FAULT_CHECKS = ("text_only", "impersonal", "self_contained", "single")
# Signs that a program sees in an instruction's words, and how likely its words are to a reviewer.
SIGN_CHECKS = ("text_shown", "no_life", "in_text")
LIKELY_CHECK = "likely"
ALL_CHECKS = (*CHECKS, *FAULT_CHECKS, *SIGN_CHECKS, LIKELY_CHECK)
# Paper section 3.2: six scores of a response, 0-10.
Dimension = Literal["correctness", "clarity", "completeness", "relevance", "coherence", "ethicality"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


# How a verifier counts: its score beside the reviewers', or as a filter before them.
VerifierMode = Literal["score", "filter"]


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed sample; keywords and summary may be missing until enrichment."""

    id: str
    domain: str
    instruction: str
    response: str
    keywords: tuple[str, ...] = ()
    summary: str = ""
    tests: str = ""  # Python that raises unless a program that answers the instruction is right

    @property
    def enriched(self) -> bool:
        """Whether the sample can be a parent."""
        return len(self.keywords) == 3 and bool(self.summary)


@dataclass(frozen=True, slots=True)
class InstructionReview:
    """One reviewer's verdict on an instruction: probability (or 0/1) of each criterion, and which failed."""

    reviewer: str
    values: dict[str, float]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Review:
    """One reviewer's scores of a response, 0-10 each; `score` is their mean, after calibration if there is one."""

    reviewer: str
    values: dict[str, float]
    raw: float
    score: float
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The adjudicator's decision on a disputed sample."""

    adjudicator: str
    values: dict[str, float]
    score: float
    comment: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """Conditions that a verifier found to hold and to be broken; `score` (0-10) counts in mode `score`."""

    verifier: str
    mode: VerifierMode
    held: tuple[str, ...]
    broken: tuple[str, ...]
    score: float

    @property
    def outcome(self) -> str:
        """Return `passed` or `failed`."""
        return "failed" if self.broken else "passed"


@dataclass(frozen=True, slots=True)
class Abstained:
    """Verdict of a verifier that had nothing to check, with the reason; it does not count."""

    verifier: str
    mode: VerifierMode
    why: str

    @property
    def outcome(self) -> str:
        """Return `abstained`."""
        return "abstained"


ResponseVersion = Literal["first", "revised"]
VERSION_NOTES: dict[ResponseVersion | None, str] = {"first": ", revised later", "revised": ", the revision"}
SECOND_BEST = "a better draft was taken"  # the reason of an accepted response that is not the best; files hold it


@dataclass(frozen=True, slots=True)
class AlternativeResponse:
    """A response to a candidate's instruction that was not taken, what it was given, and why another was.

    Attributes:
        rejected_at: None for a response that got no verdict.
        preferred: the probability that it is better than the taken one, where reviewers compared the two.
        version: `first` where it was revised, `revised` where it is the revision. The other version is another
            alternative, or the taken response.
    """

    number: int
    response: str
    reason: str
    reviews: tuple[Review, ...] = ()
    mean: float | None = None
    std: float | None = None
    ruling: Ruling | None = None
    rejected_at: RejectedAt | None = None
    preferred: float | None = None
    version: ResponseVersion | None = None

    @property
    def verdict_score(self) -> float | None:
        """Return the score (0-10) that decided: the adjudicator's after a dispute, else the reviewers' mean."""
        return self.ruling.score if self.ruling else self.mean

    def is_worse_than(self, chosen: float) -> bool:
        """Return whether it lost to the taken response: by comparison where there was one, else by that one's score."""
        if self.verdict_score is None:
            return False
        return self.verdict_score < chosen if self.preferred is None else self.preferred < 0.5


@dataclass(frozen=True, slots=True)
class ContaminationMatch:
    """What of a suite stands in a candidate: the verdict, the number of items that match, and the strongest match.

    `score` and `longest` are those of gra/data/contamination; `text` is the item's side and `row_text` the candidate's.
    """

    verdict: Literal["clean", "suspect", "contaminated"]
    matches: int = 0
    task: str = ""
    item: str = ""
    method: str = ""
    score: float = 0.0
    longest: int = 0
    text: str = ""
    row_text: str = ""


@dataclass(frozen=True, slots=True)
class HumanDecision:
    """What a person decided about a candidate.

    Attributes:
        reviewer: `human:NAME`.
        written: seconds since the epoch.
        subject: digest of the texts that the person saw (`HumanDecision.subject_of`).
        instruction: the person's text, of an edit.
        response: the person's text, of an edit.
    """

    reviewer: str
    verdict: HumanVerdict
    written: float
    subject: str
    instruction: str = ""
    response: str = ""

    @staticmethod
    def subject_of(instruction: str, response: str) -> str:
        """Return the digest of a candidate's texts."""
        return digest([well_formed(instruction), well_formed(response)])


class State(StrEnum):
    """The terminal states; every candidate ends in exactly one."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    CONTAMINATED = "contaminated"
    SURPLUS = "surplus"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and calls of one role; replayed calls count as what they cost when they were made."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """Record of a candidate: its origin, its reviews and its terminal state.

    `state` is ACCEPTED once the gate let it through, and CONTAMINATED if a test item stands in it; dedup and quotas may
    turn ACCEPTED into DUPLICATE or SURPLUS.
    """

    id: str
    round: int
    index: int
    domain: str
    state: State
    reason: str
    arm: str = "gra"
    generator: str = ""
    reviewers: tuple[str, ...] = ()
    adjudicator: str = ""
    parents: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    instruction: str = ""
    response: str = ""
    checks: tuple[InstructionReview, ...] = ()
    reviews: tuple[Review, ...] = ()
    mean: float | None = None
    std: float | None = None
    ruling: Ruling | None = None
    disputed: bool = False
    neighbour: str = ""
    similarity: float | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    verifications: tuple[Verified | Abstained, ...] = ()
    alternatives: tuple[AlternativeResponse, ...] = ()  # responses to the same instruction that were not taken
    tests: str = ""  # of the instruction, where it came with some
    contamination: ContaminationMatch | None = None  # of one that would be accepted, where the recipe names a suite
    rejected_at: RejectedAt | None = None  # None where accepted or failed
    failed_by: FailureCause | None = None  # None unless failed
    thinking: str = ""  # what the author of the response wrote before it, as reasoning models do
    decisions: tuple[HumanDecision, ...] = ()  # of people, in a version of the dataset that follows them

    @property
    def verdict_score(self) -> float | None:
        """Return the score (0-10) that decided: the adjudicator's after a dispute, else the reviewers' mean."""
        return self.ruling.score if self.ruling else self.mean

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        data = asdict(self)
        data["drafts"] = data.pop("alternatives")
        data["programs"] = [_verification_to_json(verdict) for verdict in self.verifications]
        del data["verifications"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Candidate:
        """Read what `to_json` returned."""
        state = State(data["state"])
        return cls(
            **{
                **{key: value for key, value in data.items() if key not in ("drafts", "programs")},
                "state": state,
                "rejected_at": _rejected_at(data),
                "failed_by": _failed_by(data, state),
                "thinking": data.get("thinking") or "",
                "reviewers": tuple(data["reviewers"]),
                "parents": tuple(data["parents"]),
                "keywords": tuple(data["keywords"]),
                "checks": tuple(InstructionReview(**{**c, "failed": tuple(c["failed"])}) for c in data["checks"]),
                "verifications": tuple(map(_verification, data["programs"])),
                **_judged(data),
                "alternatives": tuple(
                    AlternativeResponse(**{**item, **_judged(item), "rejected_at": _rejected_at(item)})
                    for item in data.get("drafts", ())
                ),
                "usage": {role: Usage(**usage) for role, usage in data["usage"].items()},
                "calls": tuple(data["calls"]),
                "contamination": ContaminationMatch(**data["contamination"]) if data.get("contamination") else None,
                "decisions": tuple(map(_decision, data.get("decisions", ()))),
            }
        )


# The ledger and lineage.parquet keep the column names and values of their first version.
VERIFIER_MODE_IN_FILES: dict[VerifierMode, str] = {"score": "seat", "filter": "veto"}
_MODE_FROM_JSON: dict[str, VerifierMode] = {written: mode for mode, written in VERIFIER_MODE_IN_FILES.items()}


def verifier_mode(written: str) -> str:
    """Return a verifier's mode by its name in files, or an unknown name as it is."""
    return _MODE_FROM_JSON.get(written, written)


def _verification_to_json(verdict: Verified | Abstained) -> dict[str, Any]:
    fields = asdict(verdict)
    named = {"program": fields.pop("verifier"), "takes": VERIFIER_MODE_IN_FILES[fields.pop("mode")]}
    return {"outcome": verdict.outcome, **named, **fields}


def _verification(data: dict[str, Any]) -> Verified | Abstained:
    fields = {name: value for name, value in data.items() if name not in ("outcome", "program", "takes")}
    named = {"verifier": data["program"], "mode": _MODE_FROM_JSON[data["takes"]]}
    if data["outcome"] == "abstained":
        return Abstained(**named, **fields)
    return Verified(**{**named, **fields, "held": tuple(fields["held"]), "broken": tuple(fields["broken"])})


def _decision(data: dict[str, Any]) -> HumanDecision:
    return HumanDecision(**{**data, "verdict": HumanVerdict(data["verdict"])})


def _rejected_at(data: dict[str, Any]) -> RejectedAt | None:
    """Read the step that rejected a candidate or a response; release 0.1 recorded only the reason."""
    if "rejected_at" not in data:
        return read_rejected_at(data["reason"])
    return RejectedAt(data["rejected_at"]) if data["rejected_at"] else None


def _failed_by(data: dict[str, Any], state: State) -> FailureCause | None:
    """Read the cause of a failure; release 0.1 recorded only the reason."""
    if "failed_by" not in data:
        return read_failure_cause(data["reason"]) if state is State.FAILED else None
    return FailureCause(data["failed_by"]) if data["failed_by"] else None


def _judged(data: dict[str, Any]) -> dict[str, Any]:
    """Read reviews and ruling, which candidates and alternative responses have."""
    return {
        "reviews": tuple(Review(**review) for review in data["reviews"]),
        "ruling": Ruling(**data["ruling"]) if data["ruling"] else None,
    }
