"""Write the sentences and the headline numbers of the report from the contents of a run."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.progress import duration
from gra.reports.comparison import ComparisonView
from gra.reports.statistics import ReviewerStatistics, Spent
from gra.runs.contents import ArmRun, RunContents
from gra.runs.timeline import Timeline


def summary(contents: RunContents, comparison: ComparisonView | None) -> str:
    """Return two or three sentences on what was run."""
    made = [f"{arm.name} ({_count(arm.accepted(), 'row')})" for arm in contents.arms if arm.rows]
    sentences = [f"{_count(len(made), 'dataset')}: {_list(made)}."] if made else []
    if contents.students:
        bases = {s.facts["model"]["name"] for s in contents.students if "model" in s.facts}
        of = f" of {_list(sorted(bases))}" if bases else ""
        sentences.append(f"{_count(len(contents.students), 'student')}{of} trained on {_trained_on(comparison)}.")
    if comparison and comparison.scores:
        on = _list(comparison.tasks())
        sentences.append(f"Compared item by item with {_list(comparison.references)} on {on}.")
    return " ".join(sentences) or "Nothing is finished yet in this run folder."


def _trained_on(comparison: ComparisonView | None) -> str:
    """Return how many rows of each dataset the students saw, where these were not all."""
    arms = list(comparison.data.values()) if comparison else []
    if all(arm["rows"] == arm["available"] for arm in arms):
        return "them"
    counts = sorted({arm["rows"] for arm in arms})
    return " to ".join(f"{rows:,}" for rows in dict.fromkeys((counts[0], counts[-1]))) + " rows of each"


def tiles(contents: RunContents, timeline: Timeline, spent: Spent) -> list[tuple[str, str, str]]:
    """Return the numbers at the top of the page: (name, value, remark)."""
    found = []
    for arm in contents.arms:
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


def committee_summary(arm: ArmRun) -> str:
    """Return how many candidates became rows, and what the gate requires."""
    if not arm.rows:
        return "No candidate is on record."
    rounds = max(row["round"] for row in arm.rows)
    stops = ", ".join(arm.facts.get("stopped", ()))
    text = f"{arm.accepted():,} of {_count(len(arm.rows), 'candidate')} became rows, in {_count(rounds, 'round')}"
    text += f" (stopped: {stops})." if stops else "."
    if arm.accept_mean is not None:
        text += f" The gate requires a mean score of at least {arm.accept_mean:g}"
        text += "." if arm.dispute_std is None else f"; a spread above {arm.dispute_std:g} goes to the adjudicator."
    return text


def panel(arm: ArmRun, measured: Sequence[ReviewerStatistics]) -> str:
    """Return what the control items show about the committee, and which members share weights."""
    together = arm.facts.get("committee_auc")
    if measured and arm.facts.get("panel"):
        good, bad = (max(len(getattr(reviewer, kind)) for reviewer in measured) for kind in ("good", "bad"))
        text = (
            f"Each reviewer first scored control items: {_count(good, 'good response')} and {bad:,} faulty ones. "
            "The AUC is the chance that it scores a good one higher (0.5: no better than chance)."
        )
    elif measured and together is not None:
        pairs = _count(max(len(reviewer.good) for reviewer in measured), "pair")
        text = (
            f"Each reviewer first scored control items: {pairs} of a right and a wrong response. "
            "The AUC is the chance that it scores the right one higher (0.5: no better than chance); the mean of all "
            "reaches "
            f"{auc(together)}."
        )
    else:
        text = "The reviewers were not measured on control items; their scores are used as they are."
    if shared := arm.facts.get("shared_weights"):
        groups = "; ".join(f"{_list(names)} ({model})" for model, names in shared.items())
        text += f" Members that share weights are not independent opinions: {groups}."
    return text


def time_summary(timeline: Timeline) -> str:
    """Return the time of each stage, the longest first."""
    parts = sorted(timeline.by_stage().items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 0.05)
    between = timeline.worked - sum(seconds for _, seconds in parts)
    rest = f" {duration(between)} passed between stages." if between >= 1 else ""
    return f"{duration(timeline.worked)} of work: {shares}.{rest}"


def model_note(by_role: Spent, by_model: Spent) -> str:
    """Return a sentence when the counts of the engines and of the ledger differ, else nothing."""
    if not by_role.calls or by_model.calls == by_role.calls:
        return ""
    return (
        f"Counted by the engines: {_count(by_model.calls, 'call')}, where the ledger holds {by_role.calls:,}. Calls of "
        "a process that was killed, and calls that were repeated, are in one count only."
    )


def auc(value: float | None) -> str:
    """Return an AUC with two digits, or three where two would round to 1."""
    return "–" if value is None else f"{value:.3f}" if 0.995 <= value < 1 else f"{value:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
