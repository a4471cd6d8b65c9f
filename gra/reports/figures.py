"""Draw the figures of the report as SVG for the page and as PNG for slides, README and W&B.

Text stays text in the SVG, and every color there is a CSS variable of the page. So figures follow the page's light and
dark scheme and its font. PNG files use the light colors.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gra.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Light colors and their CSS variables on the page; color-blind readers can distinguish them.
INK, MUTED, LINE, FAINT, PAPER = "#1c2128", "#5a6472", "#d5dae1", "#eef1f4", "#fefefe"
BLUE, ORANGE, TEAL, PURPLE, GOLD, RED, GREY = (
    "#2463c4", "#c9590c", "#0f7f75", "#7a4bb3", "#a87900", "#b5341b", "#7a828d",
)  # fmt: skip
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", FAINT: "faint", PAPER: "paper", BLUE: "blue", ORANGE: "orange",
    TEAL: "teal", PURPLE: "purple", GOLD: "gold", RED: "red", GREY: "grey",
}  # fmt: skip
VERDICT_COLORS = {"better": TEAL, "non-inferior": BLUE, "inconclusive": GREY, "worse": RED}
# Arms keep their color through the page; arms of other names use the rest in turn.
_ARMS = {"untuned": GREY, "vanilla": TEAL, "distilled": ORANGE, "gra": BLUE}
_OTHERS = (PURPLE, GOLD, RED, INK, BLUE, TEAL, ORANGE, GREY)
DASHES = ("-", "--", ":", "-.")
SCALE = "score, 0–10"
_WIDTH = 9.6  # inches, for all figures: the page's column
_STYLE = {
    "text.parse_math": False,  # names that recipes and models give are no formulas
    "font.size": 9.5, "axes.titlesize": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": INK, "axes.edgecolor": LINE,
    "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": LINE,
    "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 9, "legend.labelcolor": INK,
    "xtick.major.size": 0, "ytick.major.size": 0, "svg.fonttype": "none", "figure.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure for the page: the name of its file, its inline SVG, and its caption."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class PlottedDifference:
    """One line of the forest plot: a paired difference (shares of 1) with its 95 % interval and its verdict."""

    panel: str
    group: str
    label: str
    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class PlottedCost:
    """One point of the plot of quality against cost: a mean of tasks (a share of 1) with its interval, and a cost."""

    arm: str
    cost: float
    mean: float
    low: float
    high: float


def draw(name: str, caption: str, folder: Path, paint: Any, *data: Any) -> Drawing:
    """Paint a figure, keep it as PNG in `folder`, and return it as inline SVG."""
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure: Figure = paint(*data)
        vector = io.StringIO()
        figure.savefig(vector, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        with atomic_path(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=200, facecolor="white")
    return Drawing(name, _inline(vector.getvalue(), name, caption), caption)


def _inline(svg: str, name: str, caption: str) -> str:
    """Return the <svg> element with the page's color variables, a label for screen readers, and unique ids."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    label = f'role="img" aria-label="{escape(caption)}"'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" {label}>', body, count=1, flags=re.DOTALL)


def new_figure(height: float, **options: Any) -> Figure:
    """Return an empty figure of the page's width; `height` in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    apart = ConstrainedLayoutEngine(wspace=0.06)  # so that labels of neighboring axes do not touch
    return Figure(figsize=(_WIDTH, height), layout=apart, **options)


def forest(differences: Sequence[PlottedDifference], labels: Sequence[str], margin: float) -> Figure:
    """Draw paired differences in points with their intervals: a panel per reference, rows in the order of `labels`."""
    panels = list(dict.fromkeys(d.panel for d in differences))
    groups = list(dict.fromkeys(d.group for d in differences))
    there = {(d.group, d.label) for d in differences}
    places, place = {}, 0.0
    for group in groups:
        place += 1.0  # the group's heading
        for label in (label for label in labels if (group, label) in there):
            places[group, label] = place
            place += 1.0
        place += 0.35
    figure = new_figure(0.55 + 0.27 * place)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        shown = [d for d in differences if d.panel == panel]
        left = 100 * min(-margin, *(d.low for d in shown))
        right = 100 * max(margin, *(d.high for d in shown))
        axis.axvspan(-100 * margin, 0, color=FAINT, lw=0, zorder=0)
        axis.axvline(0, color=MUTED, lw=1)
        for d in shown:
            _interval(axis, d, places[d.group, d.label])
        room = right - left  # the words to the right of an interval need about half as much again
        axis.set(xlim=(left - 0.06 * room, right + 0.55 * room), ylim=(place - 0.5, -0.6), xlabel="points")
        axis.set_title(panel)
        axis.grid(axis="x")
        axis.locator_params(axis="x", nbins=7)
        axis.set_xticks([tick for tick in axis.get_xticks() if abs(tick) <= 100 and left <= tick <= right])
        axis.spines["left"].set_visible(False)
    axes[0].set_yticks([*places.values()], [label for _, label in places])
    for group in groups:
        first = min(y for (name, _), y in places.items() if name == group)
        axes[0].annotate(
            group, (0, first - 0.95), xycoords=("axes fraction", "data"), fontweight="bold", va="center",
            ha="right", annotation_clip=False, xytext=(-3.5, 0), textcoords="offset points",
        )  # fmt: skip
    return figure


def _interval(axis: Axes, d: PlottedDifference, y: float) -> None:
    color = VERDICT_COLORS.get(d.verdict, GREY)
    axis.plot([100 * d.low, 100 * d.high], [y, y], color=color, lw=2.2, solid_capstyle="round")
    filled = d.verdict in ("better", "worse")
    axis.plot(100 * d.value, y, "o", ms=6.5, mfc=color if filled else PAPER, mec=color, mew=1.6)
    value = f"{100 * d.value:+.1f}".replace("-", "−")
    axis.annotate(
        f"{value} {d.verdict}", (100 * d.high, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
        color=color,
    )  # fmt: skip


def cost(points: Sequence[PlottedCost]) -> Figure:
    """Draw the mean of tasks over cost on a logarithmic axis; arms that cost nothing stand left of a dotted line."""
    figure = new_figure(3.4)
    axis = figure.subplots()
    powers = [math.log10(p.cost) for p in points if p.cost > 0] or [0.0]
    free = any(p.cost <= 0 for p in points)
    nothing = 10 ** (min(powers) - 0.9)
    colors = arm_colors([p.arm for p in points])
    # Names stand above and below in turn, so that those of neighbors do not meet.
    for place, p in enumerate(sorted(points, key=lambda p: p.cost)):
        x, color = p.cost if p.cost > 0 else nothing, colors[p.arm]
        axis.plot([x, x], [100 * p.low, 100 * p.high], color=color, lw=1.6, solid_capstyle="round")
        axis.plot(x, 100 * p.mean, "o", ms=7, color=color)
        end, offset, side = (p.low, -4, "top") if place % 2 else (p.high, 4, "bottom")
        axis.annotate(
            p.arm, (x, 100 * end), xytext=(0, offset), textcoords="offset points", ha="center", va=side, color=color
        )
    steps = (1,) if max(powers) - min(powers) > 1.5 else (1, 2, 5)
    exponents = range(math.floor(min(powers)) - 1, math.ceil(max(powers)) + 1)
    left, right = min(powers) - (0.4 if free else 0.35), max(powers) + 0.35
    ticks = [step * 10.0**e for e in exponents for step in steps if left < math.log10(step * 10.0**e) < right]
    labels = [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks]
    axis.set(
        xscale="log", xlabel="cost of the training rows, tokens x billions of parameters", ylabel="mean of tasks, %"
    )
    axis.set_xticks([nothing, *ticks] if free else ticks, ["0", *labels] if free else labels)
    axis.minorticks_off()
    axis.set_xlim(10 ** (left - 0.9 if free else left), 10**right)
    axis.margins(y=0.16)
    if free:
        axis.axvline(10**left, color=MUTED, lw=1, ls=(0, (2, 3)))
    axis.grid(axis="y")
    return figure


def funnel(steps: Mapping[str, int]) -> Figure:
    """Draw how many candidates reached each step of the method, disputed candidates in a lighter color."""
    side = ("disputed", "kept by adjudicator")
    names = list(steps)
    whole = max(1, *steps.values())
    figure = new_figure(0.36 * len(names) + 0.2)
    axis = figure.subplots()
    for y, (name, count) in enumerate(steps.items()):
        branch = name in side
        color = TEAL if name == "accepted" else GREY if branch else BLUE
        axis.barh(y, count, height=0.46 if branch else 0.68, color=color, alpha=0.55 if branch else 1.0)
        share = f"{count:,}" + (f" · {count / whole:.0%}" if y else "")
        axis.annotate(share, (count, y), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
    axis.set_yticks(range(len(names)), [f"thereof {name}" if name in side else name for name in names])
    axis.set(xlim=(0, whole * 1.12), ylim=(len(names) - 0.4, -0.6), xticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def scores(by_reviewer: Mapping[str, Sequence[float]], means: Sequence[float], gate: float | None) -> Figure:
    """Draw histograms of scores (0-10) per reviewer and of the committee's mean, with the gate's threshold."""
    panels = [*by_reviewer.items(), ("committee mean", means)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(1.55 * lines + 0.15)
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, panels, strict=False):
        color = TEAL if name == "committee mean" and values is means else BLUE
        counts, edges, bars = axis.hist(values, bins=np.linspace(0, 10, 21), color=color, rwidth=0.88)
        for left, bar in zip(edges, bars, strict=False):
            bar.set_alpha(1.0 if gate is None or left >= gate - 1e-9 else 0.38)
        if gate is not None:
            axis.axvline(gate, color=INK, lw=1.1, ls=(0, (4, 3)))
            axis.annotate(
                f"gate {gate:g}", (gate, 1), xycoords=("data", "axes fraction"), xytext=(4, -2),
                textcoords="offset points", va="top", fontsize=8, color=MUTED,
            )  # fmt: skip
        axis.set(xlim=(0, 10), ylim=(0, max(counts.max(), 1) * 1.28), yticks=[], xticks=range(0, 11, 2))
        axis.set_title(f"{name} (n = {len(values)})", fontsize=9)
        axis.spines["left"].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def control_items(panels: Sequence[tuple[str, Sequence[float], Sequence[float], str]]) -> Figure:
    """Draw raw scores on control items, a panel per reviewer: (title, good, bad, unit); lines mark medians."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(1.5 * lines + 0.15)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axis, (title, good, bad, unit) in zip(axes, panels, strict=False):
        for y, values, color, marker in ((0, good, TEAL, "o"), (1, bad, ORANGE, "D")):
            spread = np.random.default_rng(0).uniform(-0.26, 0.26, len(values))
            axis.scatter(values, y + spread, s=17, marker=marker, facecolor=color, edgecolor="none", alpha=0.75)
            axis.plot([np.median(values)] * 2, [y - 0.36, y + 0.36], color=color, lw=2)
        axis.set_yticks([0, 1], ["own response", "wrong response"])
        axis.set_ylim(1.55, -0.55)
        axis.set_xlabel(unit, fontsize=8.5)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        if unit == SCALE:
            axis.set(xlim=(-0.2, 10.2), xticks=range(0, 11, 2))
        else:
            axis.locator_params(axis="x", nbins=5)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def calibration(curve: Sequence[Sequence[float]]) -> Figure:
    """Draw the share of right responses by the panel's score: (mean score 0-1, share right, items) for each bin."""
    figure = new_figure(2.6)
    axis = figure.subplots(1, 1)
    axis.plot([0, 10], [0, 1], color=LINE, lw=1)
    axis.plot([10 * score for score, _, _ in curve], [share for _, share, _ in curve], color=BLUE, lw=1.5)
    for score, share, items in curve:
        axis.scatter([10 * score], [share], s=12 + 2 * items, color=BLUE, edgecolor="none")
        axis.annotate(f"{int(items)}", (10 * score, share), xytext=(6, -9), textcoords="offset points", fontsize=8)
    axis.set(xlim=(-0.2, 10.2), ylim=(-0.05, 1.05), xlabel="the panel's score, 0-10", ylabel="share right")
    axis.grid(True)
    return figure


def arm_colors(arms: Sequence[str]) -> dict[str, str]:
    """Return the color of each arm, the same in all figures."""
    taken = {_ARMS[arm] for arm in arms if arm in _ARMS}
    others = itertools.cycle(sorted(_OTHERS, key=lambda color: color in taken))
    return {arm: _ARMS.get(arm) or next(others) for arm in arms}
