"""Forecast how long the stages of a run take: synthesis by simulation, other stages by a past run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gra.core.progress import read_events
from gra.experiment import ExperimentPlan, planned_rows, trained_rows, training_steps
from gra.forecast.simulate import CostRange, Forecast
from gra.runs.timeline import Span, read_timeline

_START = CostRange(45.0, 15.0, 240.0)  # seconds of loading models, where no log has them
_ALONE = 0.2  # the relative uncertainty of a single measured time

Seconds = dict[str, CostRange]


def add(ranges: Iterable[CostRange]) -> CostRange:
    """Add ranges, as if all were at their low or high end together."""
    listed = list(ranges)
    return CostRange(sum(r.point for r in listed), sum(r.low for r in listed), sum(r.high for r in listed))


def scaled(given: CostRange, factor: float) -> CostRange:
    """Multiply a range by a factor."""
    return CostRange(given.point * factor, given.low * factor, given.high * factor)


def forecast_stages(
    total: Forecast | None,
    loaded: bool,
    log: Path,
    experiment: ExperimentPlan | None,
    rows: Mapping[str, int | None],
    past: Path | None,
) -> tuple[Seconds, list[str]]:
    """Return seconds by stage, and notes on stages that could not be forecast.

    Args:
        total: the forecast of all arms.
        loaded: whether models are loaded, on this machine or a cluster.
        log: the log of the run that times are taken from.
        experiment: the whole job; None for one arm alone.
        rows: by recipe name, the rows of arms that write new samples.
        past: the folder of a past run.
    """
    spans = [span for session in read_timeline(read_events(log)).sessions for span in session.spans]
    done = {
        name: [s for s in spans if s.name == name and s.outcome == "done"] for name in ("engines", "train", "evaluate")
    }
    stages: Seconds = {}
    if total is not None:
        if loaded:
            stages["engines"] = _range([span.seconds for span in done["engines"]]) if done["engines"] else _START
        stages["synthesis"] = total.seconds()
    if experiment is None:
        return stages, []
    if past is None or not done["train"] or not done["evaluate"]:
        return stages, [
            "training and evaluation are not in these figures: a past run of the job (--from RUN) has their times"
        ]
    stages["train"] = _training(experiment, rows, done["train"], past)
    asked = len(experiment.suites()) * (1 + len(experiment.students()))
    stages["evaluate"] = scaled(_range([span.seconds for span in done["evaluate"]]), asked)
    return stages, []


def _range(seconds: Sequence[float]) -> CostRange:
    """Return the range of several measured times."""
    mean = statistics.fmean(seconds)
    if len(seconds) < 3:
        return CostRange(mean, min(*seconds, (1 - _ALONE) * mean), max(*seconds, (1 + _ALONE) * mean))
    return CostRange(mean, min(seconds), max(seconds))


def _training(
    experiment: ExperimentPlan, rows: Mapping[str, int | None], spans: Sequence[Span], past: Path
) -> CostRange:
    """Return the time of all trainings, by the past run's time a step or a student."""
    a_step = []
    for span in spans:
        metrics = past / "models" / span.detail / "metrics.json"
        if metrics.is_file():
            a_step.append(span.seconds / max(1, json.loads(metrics.read_text(encoding="utf-8"))["steps"]))
    if not a_step:
        return scaled(_range([span.seconds for span in spans]), len(experiment.students()))
    known = planned_rows(experiment)
    written = {name: rows[arm.recipe.name] or known[name] for name, arm in experiment.arms.items()}
    written |= {name: written[of] for name, of in experiment.recipe.derived.items()}
    steps = training_steps(experiment, trained_rows(experiment, written))
    return scaled(_range(a_step), sum(steps[arm] for _, arm, _ in experiment.students()))
