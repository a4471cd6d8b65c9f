"""Counts and selections from the evidence: endings, scores, reviewers, tokens, and the samples that are shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import Any

from gra.core.types import State
from gra.core.vocabulary import RejectedAt
from gra.models.entries import find_entry
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
    """How the candidates of an arm ended, and why."""
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
    """Every reviewer's scores of responses (0-10, calibrated where there is a calibration), as the gate saw them."""
    scores: dict[str, list[float]] = {name: [] for name in arm.facts.get("reviewers", {})}
    for row in arm.rows:
        for review in row["reviews"]:
            scores.setdefault(review["reviewer"], []).append(review["score"])
    return {name: values for name, values in scores.items() if values}


def mean_scores(arm: ArmRun) -> list[float]:
    """The committee's mean per scored response (0-10)."""
    return [row["mean"] for row in arm.rows if row["mean"] is not None]


@dataclass(frozen=True)
class ReviewerStatistics:
    """One reviewer: how it is asked, what the planted pairs say about it, and how it used its scale in this run."""

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
        """Whether the planted pairs leave open that it does no better than a coin."""
        return self.auc_interval is not None and self.auc_interval[0] <= 0.5


def reviewers(arm: ArmRun) -> list[ReviewerStatistics]:
    """The reviewers of an arm, in the committee's order."""
    members, probed = arm.facts.get("members", {}), arm.facts.get("reviewers", {})
    used = scores_by_reviewer(arm)
    checks = [check for row in arm.rows for check in row["checks"] if check["values"]]
    seats = [name for name, member in members.items() if {"reviewer", "adjudicator"} & set(member.get("roles", ()))]
    return [
        _reviewer(
            name, arm.facts, probed.get(name, {}), used.get(name, []), [c for c in checks if c["reviewer"] == name]
        )
        for name in dict.fromkeys([*seats, *probed, *used])
    ]


def _reviewer(
    name: str, facts: Mapping[str, Any], probe: Mapping[str, Any], used: Sequence[float], checks: Sequence[Row]
) -> ReviewerStatistics:
    member = facts.get("members", {}).get(name, {})
    sharing = facts.get("shared_weights", {}).get(member.get("model", ""), [])
    good, bad = probe.get("good", []), probe.get("bad", [])
    return ReviewerStatistics(
        name=name,
        model=member.get("model", ""),
        ask=member.get("ask", ""),
        shares_with=[other for other in sharing if other != name],
        auc=probe.get("auc"),
        auc_interval=auc_interval(probe["auc"], len(good), len(bad)) if good and bad else None,
        good=good,
        bad=bad,
        unanswered=probe.get("unanswered", 0),
        reviews=len(used),
        mean=fmean(used) if used else None,
        spread=pstdev(used) if used else None,
        checks=len(checks),
        failed_checks=sum(bool(check["failed"]) for check in checks),
    )


@dataclass(frozen=True)
class VerifierStatistics:
    """One program that reviewed: whether on a seat or with a veto, and how often it came to which verdict."""

    name: str
    takes: str
    passed: int
    failed: int
    abstained: int


def programs(arm: ArmRun) -> list[VerifierStatistics]:
    """The programs of an arm, in the order in which they first spoke."""
    takes: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in arm.rows:
        for verdict in row["programs"]:
            takes.setdefault(verdict["program"], verdict["takes"])
            counts[verdict["program"], verdict["outcome"]] += 1
    return [
        VerifierStatistics(name, taken, *(counts[name, outcome] for outcome in ("passed", "failed", "abstained")))
        for name, taken in takes.items()
    ]


def auc_interval(auc: float, good: int, bad: int, level: float = 0.95) -> tuple[float, float]:
    """A cautious interval: an AUC's variance is at most AUC (1 - AUC) / min(good, bad), so Wilson's with that n."""
    n, z = min(good, bad), NormalDist().inv_cdf(0.5 + level / 2)
    centre = (auc + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(auc * (1 - auc) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


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


def tokens_by_role(evidence: RunContents) -> list[Spent]:
    """What every role of every arm used, as the ledger recorded it."""
    arms = [arm for arm in evidence.arms if arm.facts.get("tokens_by_role")]
    return [
        _spent(f"{arm.name} · {role}" if len(evidence.arms) > 1 else role, facts)
        for arm in arms
        for role, facts in sorted(arm.facts["tokens_by_role"].items(), key=lambda item: -_spent("", item[1]).tokens)
    ]


def tokens_by_model(evidence: RunContents) -> list[Spent]:
    """What every model used: as recorded in the manifests, else as the engines counted it in the log."""
    found: dict[str, list[Spent]] = {}
    for arm in evidence.arms:
        for model, facts in arm.facts.get("tokens_by_model", {}).items():
            found.setdefault(model, []).append(_spent(model, facts))
    if not found:
        for event in evidence.events:
            if event["event"] == "engine":
                found.setdefault(event["name"], []).append(_spent(event["name"], event))
    return sorted((_total(model, parts) for model, parts in found.items()), key=lambda spent: -spent.tokens)


def total(parts: Iterable[Spent]) -> Spent:
    """All of them together."""
    return _total("total", parts)


@dataclass
class ModelUse:
    """A model of the run: who used it as what, and what is known of its origin; "" is unknown."""

    name: str
    uses: list[str]
    licence: str
    upstream: str
    source: str
    identity: str


def models(evidence: RunContents) -> list[ModelUse]:
    """Every model the run used, as the manifests name them; the catalog knows whose work a model is."""
    found: dict[str, ModelUse] = {}
    for arm in evidence.arms:
        known = arm.facts.get("models", {})
        for member, facts in arm.facts.get("members", {}).items():
            _use(found, facts["model"], known.get(facts["model"], {}), f"{arm.name}: {member}")
        teacher = arm.recipe.get("teacher") or {}
        served = [str(name) for name in (teacher.get("model"), teacher.get("fallback")) if name in known]
        if served and arm.spec.asks_teacher:
            _use(found, served[0], known[served[0]], f"{arm.name}: teacher")
        if arm.spec.deduplicates and (embedder := arm.recipe.get("dedup", {}).get("embedder")):
            _use(found, embedder.removeprefix("catalog:"), {}, f"{arm.name}: deduplication")
    for student in evidence.students:
        if "model" in student.facts:
            _use(found, student.facts["model"]["name"], student.facts["model"], "student")
    return list(found.values())


def _use(found: dict[str, ModelUse], name: str, facts: Mapping[str, Any], use: str) -> None:
    entry = find_entry(name)
    model = found.setdefault(name, ModelUse(name, [], "", entry.hub_id if entry else "", "", ""))
    model.uses += [] if use in model.uses else [use]
    model.licence = model.licence or facts.get("licence") or (entry.licence if entry else "")
    model.source = model.source or facts.get("source_note") or facts.get("origin") or ""
    model.identity = model.identity or facts.get("identity") or ""


def texts(arms: Iterable[ArmRun]) -> dict[str, str]:
    """Instructions by the name a child calls its parent: candidates by their id, seeds where an arm copied them."""
    found: dict[str, str] = {}
    for arm in arms:
        for row in arm.rows:
            if arm.committee:
                found[row["candidate_id"]] = row["instruction"]
            elif row["parents"]:
                found[row["parents"][0]] = row["instruction"]
    return found


def samples(arm: ArmRun) -> list[Row]:
    """Rows to show, by a rule and not by taste: the first of each ending, then accepted ones of further domains."""
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
