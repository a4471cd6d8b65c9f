"""Write `report/index.html`: one page about what a run did, its results and its cost.

    gra report runs/quickstart

The page is self-contained: styles, figures and texts are inline. It shows only what is in the run folder, and leaves
out parts that a run does not have. Texts of models are untrusted and always escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gra.core.files import atomic_path, refuse_link_below
from gra.core.progress import duration
from gra.core.types import DIMENSIONS, verifier_mode
from gra.core.version import __version__
from gra.reports import figures, time_figures
from gra.reports import statistics as tally
from gra.reports import text as prose
from gra.reports.comparison import ComparisonView, read_comparison
from gra.reports.figures import Drawing
from gra.reports.rows import rows_section
from gra.runs.contents import ArmRun, RunContents, TrainedStudent, read_contents
from gra.runs.inspection.table import percent
from gra.runs.panel import competence_sentences, panel_sentences
from gra.runs.timeline import Timeline, read_timeline

_COLUMNS = (
    "rows", "steps", "epochs", "tokens", "tokens/s", "time", "first loss", "last loss", "held-out loss",
    "answers that end",
)  # fmt: skip
# The names and explanations of a reviewer's `ask` on the page.
ASKED = {
    "integers": ("integers", "one JSON with six integers from 0 to 10"),
    "expected": (
        "expected digit",
        "ten times the expected digit of each of six questions, read from token probabilities",
    ),
    "yes_no": ("yes or no", "ten times the probability of “yes” to each of six questions"),
    "likelihood": (
        "likelihood",
        "nats by which the exercise makes the answer likelier; no opinion on exercises",
    ),
    "logprob": ("log-probability", "mean log-probability of the answer's tokens, in nats; no opinion on exercises"),
    "agreement": ("agreement", "how far the answer agrees with the reviewer's own answers; no opinion on exercises"),
    "reference": (
        "reference",
        "ten times the probability that the answer comes to the same result as the reviewer's own",
    ),
    "reward": ("reward", "logit of a reward model, or log-odds of a classifier; no opinion on exercises"),
}
# Units of raw scores that are not on the scale of reviews.
_UNITS = {"likelihood": "nats", "logprob": "nats", "reward": "logit"}
_FAULTS = {
    "mismatched": "another seed's response",
    "truncated": "cut off",
    "contradicted": "a number or negation changed",
    "off_format": "format broken",
    "wrong_answer": "wrong answer by a member",
}


def write_report(run: Path, *, title: str, command: str) -> Path:
    """Write the report of a run folder and its figures as PNG, and return the page's path.

    Raises:
        DataError: When a file of the run is damaged, or the folder of the report is a link.
    """
    folder = run / "report"
    refuse_link_below(run, folder / "figures")  # its manifest may hide that it is a run folder
    contents, page = read_contents(run), folder / "index.html"
    text = render("report.html.jinja", _content(contents, folder / "figures", title, command))
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return a page from a template beside this file, with the styles inline."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "points": lambda share: f"{100 * share:.1f}",
        "signed": lambda share: f"{100 * share:+.1f}".replace("-", "−"),
        "auc": prose.auc,
        "verifier_mode": verifier_mode,
        "p_value": lambda p: "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    }
    return environment.get_template(template).render(style=(here / "report.css").read_text(encoding="utf-8"), **content)


def _content(contents: RunContents, folder: Path, title: str, command: str) -> dict[str, Any]:
    comparison = read_comparison(contents.comparison)
    names = {arm.facts["name"]: arm.name for arm in contents.arms if "name" in arm.facts}
    timeline = read_timeline(contents.events).renamed(names)
    reported = read_comparison(contents.reported)
    drawings = _drawings(contents, timeline, folder)
    for view, prefix in ((comparison, ""), (reported, "reported-")):
        drawings |= _compared(view, folder, prefix)
    committees = [_committee(arm, folder, len(contents.arms) > 1) for arm in contents.arms if arm.committee]
    sampled = [
        {"name": arm.name, "committee": arm.committee, "samples": rows}
        for arm in contents.arms
        if (rows := tally.samples(arm))
    ]
    by_role, by_model = tally.tokens_by_role(contents), tally.tokens_by_model(contents)
    role_total, model_total = tally.total(by_role), tally.total(by_model)
    content: dict[str, Any] = {
        "title": title,
        "command": command,
        "run": contents.run,
        "explain_command": f"gra explain {contents.run} ID",
        "summary": prose.summary(contents, reported or comparison),
        "tiles": prose.tiles(contents, timeline, role_total),
        "comparison": comparison,
        "reported": reported,
        "figures": drawings,
        "committees": committees,
        "rows": rows_section(contents, folder),
        "sampled": sampled,
        "texts": tally.texts(contents.arms),
        "asked": ASKED,
        "dimensions": DIMENSIONS,
        "students": _students(contents.students),
        "time_summary": prose.time_summary(timeline),
        "by_role": by_role,
        "by_model": by_model,
        "role_total": role_total,
        "model_total": model_total,
        "model_note": prose.model_note(role_total, model_total),
        "models": tally.models(contents),
        "missing_models": {n: why for arm in contents.arms for n, why in arm.facts.get("missing_models", {}).items()},
        "versions": _versions(contents),
        "prompts": {n: d for arm in contents.arms for n, d in arm.facts.get("prompts", {}).items()},
        "gra_version": __version__,
    }
    return content | {"sections": _sections(content)}


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return anchor and name of the parts that this page has."""
    parts = [
        ("result", "Result", content["comparison"]),
        ("reported", "Reporting suite", content["reported"]),
        ("data", "Data", content["committees"]),
        ("rows", "Rows", content["rows"]),
        ("samples", "Samples", content["sampled"]),
        ("training", "Training", content["students"]),
        ("cost", "Cost", content["figures"].get("timeline") or content["by_role"] or content["by_model"]),
        ("origin", "Origin", True),
    ]
    return [(anchor, name) for anchor, name, there in parts if there]


def _compared(view: ComparisonView | None, folder: Path, prefix: str) -> dict[str, Drawing | None]:
    """Draw a comparison, and its quality against cost where two arms or more have a known cost."""
    found: dict[str, Drawing | None] = {f"{prefix}comparison": None, f"{prefix}cost": None}
    if view and view.differences:
        caption = f"Paired differences with {view.level:.0%} intervals, in points; right of zero is better."
        caption += f" The shaded band is the margin of {100 * view.margin:g} points."
        found[f"{prefix}comparison"] = figures.draw(
            f"{prefix}comparison", caption, folder, figures.forest, view.forest(), view.arms(), view.margin
        )
    if view and len(view.costs) > 1:
        caption = (
            f"Quality against cost: the mean of tasks with its {view.level:.0%} interval, training seeds included."
        )
        caption += " Upper left is better. Differences between arms are paired, so their intervals above are narrower."
        found[f"{prefix}cost"] = figures.draw(f"{prefix}cost", caption, folder, figures.cost, view.costs)
    return found


def _drawings(contents: RunContents, timeline: Timeline, folder: Path) -> dict[str, Drawing | None]:
    found: dict[str, Drawing | None] = {"training": None, "timeline": None}
    if curves := {(s.arm, s.key.removeprefix(f"{s.arm}-")): curve for s in contents.students if (curve := _curve(s))}:
        caption = "Loss over optimizer steps, on the tokens of the answers."
        found["training"] = figures.draw("training", caption, folder, time_figures.training, curves)
    if timeline.sessions:
        caption = (
            "Stages over working time; pauses between an interruption and its resume are left out, and interrupted "
            "stages are hatched. Below: rows that have passed the gate so far, before deduplication."
        )
        found["timeline"] = figures.draw("timeline", caption, folder, time_figures.timeline, timeline)
    return found


def _committee(arm: ArmRun, folder: Path, several: bool) -> dict[str, Any]:
    """Return the content of the page about an arm with a committee."""
    suffix = f"-{arm.name}" if several else ""
    reviewers, by_reviewer = tally.reviewers(arm), tally.scores_by_reviewer(arm)
    measured = [r for r in reviewers if r.good and r.bad]
    gate = arm.accept_mean
    funnel = arm.facts.get("funnel")
    parts: dict[str, Any] = {"funnel": None, "control_items": None, "scores": None, "calibration": None}
    if funnel:
        caption = (
            "How many candidates reached each step of the method. Between a passed mean and a row stand the "
            "adjudicator, deduplication, and the end of the round."
        )
        parts["funnel"] = figures.draw(f"funnel{suffix}", caption, folder, figures.funnel, funnel)
    if measured:
        panels = [
            (
                f"{r.name} (AUC {prose.auc(r.auc)})",
                r.good,
                r.bad,
                _UNITS.get(r.ask, figures.SCALE),
            )
            for r in measured
        ]
        wrong = "with a faulty or wrong one" if arm.facts.get("panel") else "with the response of another seed"
        caption = (
            f"Raw scores on control items: an instruction with a good response, and {wrong}. "
            "The further apart, the more a reviewer's score says; lines mark medians."
        )
        parts["control_items"] = figures.draw(f"control-items{suffix}", caption, folder, figures.control_items, panels)
    if (known := arm.facts.get("panel")) and known["statistics"]:
        caption = (
            "Calibration of the panel on control items, in bins of its score. On the diagonal, a score of 7 of 10 "
            "means that 7 of 10 responses are right."
        )
        parts["calibration"] = figures.draw(
            f"calibration{suffix}", caption, folder, figures.calibration, known["statistics"]["curve"]
        )
    if by_reviewer:
        caption = "Scores of the candidates' responses, calibrated where a reviewer was measured"
        caption += f"; a response needs a committee mean of at least {gate:g}." if gate is not None else "."
        parts["scores"] = figures.draw(
            f"scores{suffix}", caption, folder, figures.scores, by_reviewer, tally.mean_scores(arm), gate
        )
    return parts | {
        "name": arm.name,
        "summary": prose.committee_summary(arm),
        "endings": tally.endings(arm),
        "reviewers": reviewers,
        "verifiers": tally.verifiers(arm),
        "panel": prose.panel(arm, measured),
        "worth": _worth(arm),
    }


def _worth(arm: ArmRun) -> dict[str, Any] | None:
    """Return what control items show about the panel: AUC by fault kind, and each reviewer's habits and cost."""
    facts = arm.facts.get("panel")
    if not facts:
        return None
    found = facts["statistics"] or {}
    kinds = [kind for kind in _FAULTS if any(kind in measured for measured in facts["kinds"].values())]
    weights = (facts["weights"] or {}).get("weights", {}) if (facts["weights"] or {}).get("used") else {}
    return {
        "sentences": panel_sentences(facts) + competence_sentences(arm.facts.get("competence", {})),
        "kinds": [(_FAULTS[kind], facts["items"].get(kind, 0)) for kind in kinds],
        "rows": [
            {
                "name": name,
                "aucs": [measured.get(kind) for kind in kinds],
                "weight": weights.get(name),
                "cost": facts["costs"].get(name),
                **{key: found.get(key, {}).get(name) for key in ("severity", "length_bias", "own_family")},
            }
            for name, measured in facts["kinds"].items()
        ],
        "weighted": bool(weights),
        "alpha": found.get("alpha"),
        "checks": facts.get("instruction_checks", {}),
        "stop": facts["stop"],
    }


def _curve(student: TrainedStudent) -> dict[str, list[tuple[float, float]]]:
    """Return the loss by step, from the trainer's own log."""
    kinds = {"train": "loss", "eval": "eval_loss"}
    found = {
        kind: [(entry["step"], entry[key]) for entry in student.log if key in entry and "step" in entry]
        for kind, key in kinds.items()
    }
    return {kind: points for kind, points in found.items() if points}


def _students(students: Sequence[TrainedStudent]) -> dict[str, Any] | None:
    """Return the training table; a cell is "–" where a student has no such number."""
    if not students:
        return None
    return {
        "columns": _COLUMNS,
        "rows": [(student.key, _student_cells(student.metrics)) for student in students],
    }


def _student_cells(m: Mapping[str, Any]) -> list[str]:
    def shown(value: Any, form: str) -> str:
        return "–" if value is None else format(value, form)

    stop, seconds = m.get("stop"), m.get("seconds")
    return [
        shown(m.get("rows", {}).get("train", {}).get("rows"), ","),
        shown(m.get("steps"), ","),
        shown(m.get("epochs"), ".1f"),
        shown(m.get("tokens"), ","),
        shown(m.get("tokens_per_second"), ".0f"),
        "–" if seconds is None else duration(seconds),
        shown(m.get("loss_first"), ".3f"),
        shown(m.get("loss"), ".3f"),
        shown(m.get("eval_loss"), ".3f"),
        f"{stop['stopped']} of {stop['prompts']}" if stop else "–",
    ]


def _versions(contents: RunContents) -> dict[str, str]:
    """Return versions, machine and commit, with all values where stages ran under different ones."""
    found: dict[str, list[str]] = {}
    for environment in contents.environments:
        facts = {**environment, **environment.get("packages", {})}
        for name, value in facts.items():
            if name != "packages" and value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return {name: ", ".join(values) for name, values in found.items() if values}
