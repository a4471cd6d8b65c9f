"""Draw what a run did over time: its stages, and the loss of its students over steps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gra.core.progress import duration
from gra.core.types import State
from gra.reports.figures import (
    BLUE,
    DASHES,
    GOLD,
    GREY,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    TEAL,
    arm_colors,
    new_figure,
)
from gra.runs.timeline import Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STAGE_COLORS = {"engines": GOLD, "synthesis": BLUE, "train": ORANGE, "evaluate": TEAL, "compare": PURPLE}
_MOST_LANES, _MOST_CURVES, _LEGEND_COLUMNS = 30, 8, 4
_LABEL_WIDTH = 0.18  # of the axes: nearer to the last one a label is left out
_SEED = re.compile(r"-seed\d+")


def timeline(found: Timeline) -> Figure:
    """Draw stages as bars over working time, resumes as dashed lines, and rows accepted so far."""
    stages = [span for session in found.sessions for span in session.spans]
    # A lane for each student, or for the students of an arm where there are many.
    folded = len({_lane(span) for span in stages}) > _MOST_LANES
    rows = list(dict.fromkeys(_lane(span, folded=folded) for span in stages))
    accepted = [(found.at(time), arm) for time, arm, state in found.candidates if state == State.ACCEPTED]
    height = 0.26 * len(rows) + 0.65
    figure = new_figure(height + (1.15 if accepted else 0))
    ratios = [height, 1.0] if accepted else [height]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    unit, name = (60.0, "min") if found.worked >= 120 else (1.0, "s")
    width, labeled = max(found.worked, 1e-3) / unit * 1.1, -math.inf
    for session in found.sessions:
        for span in session.spans:
            _bar(axes[0], rows.index(_lane(span, folded=folded)), found, span, unit)
        if session.pause or session is not found.sessions[0]:
            start = found.at(session.began) / unit
            for axis in axes:
                axis.axvline(start, color=RED, lw=1, ls=(0, (4, 3)))
            if start - labeled < _LABEL_WIDTH * width:
                continue
            labeled = start
            axes[0].annotate(
                f"resumed after {duration(session.pause)}", (start, -0.75), xytext=(4, 0), color=RED, fontsize=8,
                textcoords="offset points", va="center", annotation_clip=False,
            )  # fmt: skip
    for row, lane in enumerate(rows):
        spans = [span for span in stages if _lane(span, folded=folded) == lane]
        end = found.at(max(span.ended for span in spans)) / unit
        took = f"{duration(sum(span.seconds for span in spans))}, {len(spans)} times"
        axes[0].annotate(
            took if folded and len(spans) > 1 else " + ".join(map(_took, spans)), (end, row), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, color=MUTED,
        )  # fmt: skip
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set(xlim=(0, width), ylim=(len(rows) - 0.4, -1.1))
    if accepted:
        _accepted(axes[1], accepted, found.worked, unit)
    for axis in axes:
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel(f"working time, {name}")
    return figure


def _lane(span: Span, *, folded: bool = False) -> str:
    """Return the label of a stage's lane; stages that run once per model have a lane per model, or folded per arm."""
    if span.name not in ("train", "evaluate") or not span.detail:
        return span.name
    return f"{span.name} {_SEED.sub('', span.detail) if folded else span.detail}"


def _took(span: Span) -> str:
    if span.outcome == "open":
        return "running"
    return duration(span.seconds) + ("" if span.outcome == "done" else f" {span.outcome}")


def _bar(axis: Axes, row: int, found: Timeline, span: Span, unit: float) -> None:
    begun, ended = found.at(span.began) / unit, found.at(span.ended) / unit
    color = _STAGE_COLORS.get(span.name, GREY)
    whole = span.outcome in ("done", "open")
    axis.barh(
        row, max(ended - begun, found.worked / unit * 0.002), left=begun, height=0.62, color=color if whole else PAPER,
        edgecolor=color, lw=1.0, hatch=None if whole else "////",
    )  # fmt: skip


def _accepted(axis: Axes, accepted: Sequence[tuple[float, str]], worked: float, unit: float) -> None:
    arms = list(dict.fromkeys(arm for _, arm in accepted))
    for (arm, color), dash in zip(arm_colors(arms).items(), itertools.cycle(DASHES)):
        times = sorted(time / unit for time, name in accepted if name == arm)
        counts = [0, *range(1, len(times) + 1), len(times)]
        axis.step([0, *times, worked / unit], counts, where="post", color=color, lw=1.8, ls=dash, label=arm)
    axis.set_ylim(0, None)
    axis.set_ylabel("past the gate")
    axis.locator_params(axis="y", nbins=4, integer=True)
    axis.legend(loc="lower right", ncols=3)


def training(curves: Mapping[tuple[str, str], Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Draw loss over steps, `train` as a line and `eval` as points; {(arm, seed): {kind: [(step, loss)]}}."""
    colors = arm_colors([arm for arm, _ in curves])
    seeds = list(dict.fromkeys(seed for _, seed in curves))
    many = sum(map(len, curves.values())) > _MOST_CURVES  # then each arm is named once, below the axes
    figure = new_figure(2.9 + (0.22 * math.ceil(len(colors) / _LEGEND_COLUMNS) if many else 0))
    axis = figure.subplots()
    named: set[str] = set()
    for (arm, seed), kinds in curves.items():
        name = f"{arm}, {seed}" if len(seeds) > 1 and not many else arm
        for kind, points in kinds.items():
            steps, losses = zip(*points, strict=True)
            label = f"{name}, held out" if kind != "train" else name
            if many and (kind != "train" or arm in named):
                label = "_nolegend_"
            named.add(arm)
            if kind == "train":
                dash = DASHES[seeds.index(seed) % len(DASHES)]
                axis.plot(steps, losses, color=colors[arm], lw=1.8, ls=dash, label=label)
            else:
                axis.plot(steps, losses, "o", color=colors[arm], ms=5.5, mfc=PAPER, mew=1.6, label=label)
    axis.set(xlabel="optimizer step", ylabel="loss, nats per token")
    axis.grid()
    axis.spines["left"].set_visible(False)
    if many:
        figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS)
    else:
        axis.legend(ncols=2)
    return figure
