"""Count endings, scores, reviewers and tokens of a run, and select the samples that are shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import Any

from gra.core.types import State, verifier_mode
from gra.core.vocabulary import RejectedAt
from gra.models.entries import entry_of
from gra.models.int8 import shown_name
from gra.runs.contents import ArmRun, Row, RunContents

# The ways in which a candidate can end, in the order in which samples of them are shown.
_ENDINGS: tuple[Callable[[Row], bool], ...] = (
    lambda row: row["state"] == State.ACCEPTED and not row["disputed"] and row["mean"] is not None,
    lambda row: row["state"] == State.ACCEPTED and bool(row["ruling"]),
    lambda row: row["rejected_at"] == RejectedAt.VERIFIER,
    lambda row: row["rejected_at"] in (RejectedAt.REPEATS_INSTRUCTION, RejectedAt.SPECIAL_TOKEN, RejectedAt.MEAN_SCORE),
    lambda row: row["rejected_at"] == RejectedAt.ADJUDICATOR,
    lambda row: row["rejected_at"] == RejectedAt.INSTRUCTION_CHECK,
    lambda row: row["state"] == State.DUPLICATE,
    lambda row: row["state"] == State.CONTAMINATED,
    lambda row: row["state"] == State.FAILED,
)
_DUPLICATE_OF = {
    RejectedAt.SAME_TEXT: "same text as another row",
    RejectedAt.SAME_WORDING: "nearly the wording of another row",
    RejectedAt.SAME_EMBEDDING: "too similar to another row",
}
_MOST_SAMPLES = 6
_COPIED_SAMPLES = 3
_REASONS_SHOWN = 12


@dataclass(frozen=True)
class Count:
    """A named number and its share of a whole (0-1)."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class Ending:
    """One terminal state with its reasons, most frequent first."""

    state: str
    count: int
    share: float
    reasons: list[Count]


def endings(arm: ArmRun) -> list[Ending]:
    """Count how the candidates of an arm ended, and why."""
    found = []
    for state in State:
        reasons = Counter(_reason(row) for row in arm.rows if row["state"] == state)
        count = reasons.total()
        if count:
            shown = reasons.most_common(_REASONS_SHOWN)
            rest = count - sum(n for _, n in shown)
            shown += [(f"{len(reasons) - len(shown)} other reasons", rest)] if rest else []
            listed = [Count(reason, n, n / len(arm.rows)) for reason, n in shown]
            found.append(Ending(state.value, count, count / len(arm.rows), listed))
    return found


def _reason(row: Row) -> str:
    """Return why a candidate ended, without the name of the row that a duplicate repeats."""
    return _DUPLICATE_OF.get(row["rejected_at"], str(row["reason"]))


def scores_by_reviewer(arm: ArmRun) -> dict[str, list[float]]:
    """Return every reviewer's scores of responses (0-10) as the gate used them, calibrated where that was possible."""
    scores: dict[str, list[float]] = {name: [] for name in arm.facts.get("reviewers", {})}
    for row in arm.rows:
        for review in row["reviews"]:
            scores.setdefault(review["reviewer"], []).append(review["score"])
    return {name: values for name, values in scores.items() if values}


def mean_scores(arm: ArmRun) -> list[float]:
    """Return the committee's mean of each scored response (0-10)."""
    return [row["mean"] for row in arm.rows if row["mean"] is not None]


@dataclass(frozen=True)
class ReviewerStatistics:
    """One reviewer: how it is asked, its results on control items, and its scores in this run."""

    name: str
    model: str
    ask: str
    shares_with: list[str]
    auc: float | None
    auc_interval: tuple[float, float] | None
    good: list[float]
    bad: list[float]
    unanswered: int
    reviews: int
    mean: float | None
    spread: float | None
    checks: int
    failed_checks: int

    @property
    def distrusted(self) -> bool:
        """Whether the control items do not rule out that it is no better than chance."""
        return self.auc_interval is not None and self.auc_interval[0] <= 0.5


def reviewers(arm: ArmRun) -> list[ReviewerStatistics]:
    """Return the reviewers of an arm, in the committee's order."""
    members, measured = arm.facts.get("members", {}), arm.facts.get("reviewers", {})
    used = scores_by_reviewer(arm)
    checks = [check for row in arm.rows for check in row["checks"] if check["values"]]
    assigned = [name for name, member in members.items() if {"reviewer", "adjudicator"} & set(member.get("roles", ()))]
    return [
        _reviewer(
            name, arm.facts, measured.get(name, {}), used.get(name, []), [c for c in checks if c["reviewer"] == name]
        )
        for name in dict.fromkeys([*assigned, *measured, *used])
    ]


def _reviewer(
    name: str, facts: Mapping[str, Any], known: Mapping[str, Any], used: Sequence[float], checks: Sequence[Row]
) -> ReviewerStatistics:
    member = facts.get("members", {}).get(name, {})
    sharing = facts.get("shared_weights", {}).get(member.get("model", ""), [])
    good, bad = known.get("good", []), known.get("bad", [])
    return ReviewerStatistics(
        name=name,
        model=member.get("model", ""),
        ask=member.get("ask", ""),
        shares_with=[other for other in sharing if other != name],
        auc=known.get("auc"),
        auc_interval=auc_interval(known["auc"], len(good), len(bad)) if good and bad else None,
        good=good,
        bad=bad,
        unanswered=known.get("unanswered", 0),
        reviews=len(used),
        mean=fmean(used) if used else None,
        spread=pstdev(used) if used else None,
        checks=len(checks),
        failed_checks=sum(bool(check["failed"]) for check in checks),
    )


@dataclass(frozen=True)
class VerifierStatistics:
    """One verifier: its mode, and how often it passed, failed and abstained."""

    name: str
    mode: str
    passed: int
    failed: int
    abstained: int


def verifiers(arm: ArmRun) -> list[VerifierStatistics]:
    """Return the verifiers of an arm, in the order of their first verdicts."""
    modes: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in arm.rows:
        for verdict in row["programs"]:
            modes.setdefault(verdict["program"], verifier_mode(verdict["takes"]))
            counts[verdict["program"], verdict["outcome"]] += 1
    return [
        VerifierStatistics(name, mode, *(counts[name, outcome] for outcome in ("passed", "failed", "abstained")))
        for name, mode in modes.items()
    ]


def auc_interval(auc: float, good: int, bad: int, level: float = 0.95) -> tuple[float, float]:
    """Return a conservative interval of an AUC: Wilson's with n = min(good, bad).

    The variance of an AUC is at most AUC (1 - AUC) / min(good, bad).
    """
    n, z = min(good, bad), NormalDist().inv_cdf(0.5 + level / 2)
    center = (auc + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(auc * (1 - auc) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Spent:
    """Calls and tokens of one role or model."""

    name: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


def _spent(name: str, facts: Mapping[str, Any]) -> Spent:
    return Spent(
        name,
        facts.get("calls", 0),
        facts.get("prompt_tokens", 0),
        facts.get("cached_tokens", 0),
        facts.get("completion_tokens", 0),
    )


def _total(name: str, parts: Iterable[Spent]) -> Spent:
    chosen = list(parts)
    return Spent(
        name,
        sum(part.calls for part in chosen),
        sum(part.prompt_tokens for part in chosen),
        sum(part.cached_tokens for part in chosen),
        sum(part.completion_tokens for part in chosen),
    )


def tokens_by_role(contents: RunContents) -> list[Spent]:
    """Return what every role of every arm used, as the ledger recorded it."""
    arms = [arm for arm in contents.arms if arm.facts.get("tokens_by_role")]
    return [
        _spent(f"{arm.name} · {role}" if len(contents.arms) > 1 else role, facts)
        for arm in arms
        for role, facts in sorted(arm.facts["tokens_by_role"].items(), key=lambda item: -_spent("", item[1]).tokens)
    ]


def tokens_by_model(contents: RunContents) -> list[Spent]:
    """Return what every model used, from the manifests, else from the engines' counts in the log."""
    found: dict[str, list[Spent]] = {}
    for arm in contents.arms:
        for model, facts in arm.facts.get("tokens_by_model", {}).items():
            found.setdefault(model, []).append(_spent(model, facts))
    if not found:
        for event in contents.events:
            if event["event"] == "engine":
                found.setdefault(event["name"], []).append(_spent(event["name"], event))
    return sorted((_total(model, parts) for model, parts in found.items()), key=lambda spent: -spent.tokens)


def total(parts: Iterable[Spent]) -> Spent:
    """Return the sum over roles or models."""
    return _total("total", parts)


@dataclass
class ModelUse:
    """A model of the run, its uses, and its origin; "" is unknown."""

    name: str
    uses: list[str]
    licence: str
    upstream: str
    source: str
    identity: str


def models(contents: RunContents) -> list[ModelUse]:
    """Return every model of the run as the manifests name it, with its author from the catalog."""
    found: dict[str, ModelUse] = {}
    for arm in contents.arms:
        known = arm.facts.get("models", {})
        for member, facts in arm.facts.get("members", {}).items():
            _use(found, facts["model"], known.get(facts["model"], {}), f"{arm.name}: {member}")
        teacher = arm.recipe.get("teacher") or {}
        served = [str(name) for name in (teacher.get("model"), teacher.get("fallback")) if name in known]
        if served and arm.spec.asks_teacher:
            _use(found, served[0], known[served[0]], f"{arm.name}: teacher")
        if arm.spec.deduplicates and (embedder := arm.recipe.get("dedup", {}).get("embedder")):
            _use(found, embedder.removeprefix("catalog:"), {}, f"{arm.name}: deduplication")
    for student in contents.students:
        if "model" in student.facts:
            _use(found, student.facts["model"]["name"], student.facts["model"], "student")
    return list(found.values())


def _use(found: dict[str, ModelUse], name: str, facts: Mapping[str, Any], use: str) -> None:
    entry, shown = entry_of(name), shown_name(name, facts.get("weights"))
    model = found.setdefault(shown, ModelUse(shown, [], "", entry.hub_id if entry else "", "", ""))
    model.uses += [] if use in model.uses else [use]
    model.licence = model.licence or facts.get("licence") or (entry.licence if entry else "")
    model.source = model.source or facts.get("source_note") or facts.get("origin") or ""
    model.identity = model.identity or facts.get("identity") or ""


def texts(arms: Iterable[ArmRun]) -> dict[str, str]:
    """Return instructions by the id of a parent: candidates, and seeds where an arm copied them."""
    found: dict[str, str] = {}
    for arm in arms:
        for row in arm.rows:
            if arm.committee:
                found[row["candidate_id"]] = row["instruction"]
            elif row["parents"]:
                found[row["parents"][0]] = row["instruction"]
    return found


def samples(arm: ArmRun) -> list[Row]:
    """Select rows to show by a rule: the first of each ending, then accepted rows of other domains."""
    chosen: list[Row] = []
    if arm.committee:
        for matches in _ENDINGS:
            chosen += list(filter(matches, arm.rows))[:1]
        chosen = chosen[:_MOST_SAMPLES]
    wanted = max(_COPIED_SAMPLES, len(chosen) if arm.committee else 0)
    for distinct in (True, False):
        for row in arm.rows:
            domains = {known["domain"] for known in chosen}
            if len(chosen) < wanted and row["state"] == State.ACCEPTED and row not in chosen:
                chosen += [row] if not distinct or row["domain"] not in domains else []
    return chosen
