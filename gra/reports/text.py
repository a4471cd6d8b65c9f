"""The sentences and the headline numbers of the report, from what the run holds."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.progress import duration
from gra.reports.comparison import ComparisonView
from gra.reports.statistics import ReviewerStatistics, Spent
from gra.runs.contents import ArmRun, RunContents
from gra.runs.timeline import Timeline


def summary(evidence: RunContents, comparison: ComparisonView | None) -> str:
    """What was run, in two or three sentences."""
    made = [f"{arm.name} ({_count(arm.accepted(), 'row')})" for arm in evidence.arms if arm.rows]
    sentences = [f"{_count(len(made), 'dataset')}: {_list(made)}."] if made else []
    if evidence.students:
        bases = {s.facts["model"]["name"] for s in evidence.students if "model" in s.facts}
        of = f" of {_list(sorted(bases))}" if bases else ""
        sentences.append(f"{_count(len(evidence.students), 'student')}{of} trained on them.")
    if comparison and comparison.scores:
        on = _list(comparison.tasks())
        sentences.append(f"Compared item by item with {_list(comparison.references)} on {on}.")
    return " ".join(sentences) or "Nothing is finished yet in this run folder."


def tiles(evidence: RunContents, timeline: Timeline, spent: Spent) -> list[tuple[str, str, str]]:
    """The numbers at the top: (name, value, remark)."""
    found = []
    for arm in evidence.arms:
        if arm.committee and arm.rows:
            share = f"{arm.accepted() / len(arm.rows):.0%} of {_count(len(arm.rows), 'candidate')}"
            found.append((f"rows from {arm.name}", f"{arm.accepted():,}", share))
    if spent.calls:
        remark = f"{spent.completion_tokens:,} written, in {_count(spent.calls, 'call')}"
        found.append(("tokens", f"{spent.tokens:,}", remark))
    if timeline.sessions:
        resumes = len(timeline.sessions) - 1
        remark = f"with {_count(resumes, 'resume')}" if resumes else "without interruption"
        found.append(("working time", duration(timeline.worked), remark))
    if (first := timeline.first_accepted()) is not None:
        found.append(("first accepted row", duration(first), "after the engines were up"))
    return found


def committee_story(arm: ArmRun) -> str:
    """How many candidates became rows, and what the gate asked for."""
    if not arm.rows:
        return "No candidate is on record."
    rounds = max(row["round"] for row in arm.rows)
    stops = ", ".join(arm.facts.get("stopped", ()))
    text = f"{arm.accepted():,} of {_count(len(arm.rows), 'candidate')} became rows, in {_count(rounds, 'round')}"
    text += f" (stopped: {stops})." if stops else "."
    if arm.accept_mean is not None:
        text += f" The gate asks for a mean score of at least {arm.accept_mean:g}"
        text += "." if arm.dispute_std is None else f"; a spread above {arm.dispute_std:g} goes to the adjudicator."
    return text


def panel(arm: ArmRun, probed: Sequence[ReviewerStatistics]) -> str:
    """What the planted pairs say about the committee, and who shares weights."""
    together = arm.facts.get("committee_auc")
    if probed and together is not None:
        pairs = _count(max(len(reviewer.good) for reviewer in probed), "planted pair")
        text = (
            f"Each reviewer was first asked about {pairs} with known verdicts. "
            "The AUC is the chance that it scores the good one higher (0.5 is a coin); the mean of all of them reaches "
            f"{auc(together)}."
        )
    else:
        text = "The reviewers were not measured on planted pairs; their scores are taken as they stand."
    if shared := arm.facts.get("shared_weights"):
        groups = "; ".join(f"{_list(names)} ({model})" for model, names in shared.items())
        text += f" Members that share weights are not independent opinions: {groups}."
    return text


def time_story(timeline: Timeline) -> str:
    """Where the time went, the longest stage first."""
    parts = sorted(timeline.by_stage().items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 0.05)
    between = timeline.worked - sum(seconds for _, seconds in parts)
    rest = f" {duration(between)} passed between stages." if between >= 1 else ""
    return f"{duration(timeline.worked)} of work: {shares}.{rest}"


def model_note(by_role: Spent, by_model: Spent) -> str:
    """Engines count for themselves, and one that was killed leaves no count; say so when the sums differ."""
    if not by_role.calls or by_model.calls == by_role.calls:
        return ""
    return (
        f"Counted by the engines: {_count(by_model.calls, 'call')}, where the ledger holds {by_role.calls:,}. Calls of "
        "a process that was killed, and calls that were asked again, are in one count only."
    )


def auc(value: float | None) -> str:
    """Two digits, three where two would round to certainty."""
    return "–" if value is None else f"{value:.3f}" if 0.995 <= value < 1 else f"{value:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
