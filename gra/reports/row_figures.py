"""Draw the rows of a run beside its seeds: their lengths, the shares of their kinds, and their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gra.reports.figures import BLUE, FAINT, GOLD, GREY, INK, LINE, MUTED, PAPER, RED, arm_colors, new_figure
from gra.runs.inspection.inspect import RunInspection
from gra.runs.inspection.profile import ColumnProfile
from gra.runs.inspection.space import Space
from gra.runs.inspection.table import GROUPS, ShareRow, share_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE = 0.19  # inches a part in the figure of shares
_LONGEST = 44  # characters of a part's name beside its bars
_LONGEST_TITLE = 16  # characters above a panel
_PANELS = 4  # of embeddings in a line


def lengths(columns: Sequence[ColumnProfile]) -> Figure:
    """Draw the words of instructions and responses, a line a column: 10 % to 90 %, the middle half, and the median."""
    figure = new_figure(0.8 + 0.3 * len(columns))
    axes = figure.subplots(1, 2, sharey=True)
    colors = column_colors(columns)
    for axis, part in zip(axes, ("instruction", "response"), strict=True):
        for y, column in enumerate(columns):
            counts = column.instruction_words if part == "instruction" else column.response_words
            color = colors[column.name]
            # The axis is logarithmic, and an empty text has no place on it.
            low, first, middle, third, high = (
                max(value, 0.8) for value in (counts.p10, counts.p25, counts.median, counts.p75, counts.p90)
            )
            axis.plot([low, high], [y, y], color=color, lw=1.6)
            axis.barh(y, third - first, left=first, height=0.5, color=color)
            wide = first * 1.1 < middle < third / 1.1  # else the bar leaves no room for a gap
            axis.plot([middle, middle], [y - 0.25, y + 0.25], color=PAPER if wide else color, lw=2 if wide else 3)
            axis.annotate(
                f"{counts.median:.0f}", (high, y), xytext=(5, 0), textcoords="offset points", va="center",
                fontsize=8, color=MUTED,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_title(f"words of the {part}")
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        _plain_ticks(axis)
    axes[0].set_yticks(range(len(columns)), [column.name for column in columns])
    axes[0].set_ylim(len(columns) - 0.4, -0.6)
    return figure


def _plain_ticks(axis: Axes) -> None:
    """Set ticks that read as numbers, with room for the median's label at the right."""
    low, high = axis.get_xlim()
    high *= (high / low) ** 0.12
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if low <= tick <= high]
    axis.set_xlim(low, high)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()


def shares(found: RunInspection, colors: Mapping[str, str]) -> Figure:
    """Draw the share of every part, a panel a column; a line marks the seeds' share, red what is thin.

    Args:
        found: the inspection, with a few columns.
        colors: of all columns by name; an arm whose color is red is drawn in blue.
    """
    rows, has_seeds = list(share_rows(found)), not found.columns[0].is_arm
    names = [column.name for column in found.columns]
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    place = 0.0
    for before, row in zip([None, *rows], rows, strict=False):
        if before is None or before.group != row.group:
            place += 1.3 if before else 0.0
            headings.append((place, GROUPS[row.group]))
            place += 1.0
        places.append(place)
        place += 1.0
    figure = new_figure(0.4 + _LINE * place)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for column, (axis, name) in enumerate(zip(axes, names, strict=True)):
        largest = max(cell.share for row in rows for cell in row.cells) or 1.0
        for y, row in zip(places, rows, strict=True):
            _share(axis, y, row, column, colors[name], has_seeds)
        axis.set(xlim=(0, largest * 1.45), ylim=(place - 0.4, -0.8), xticks=[])
        axis.set_title(_shortened(name, _LONGEST_TITLE))
        axis.spines[["left", "bottom"]].set_visible(False)
    axes[0].set_yticks(places, [_shortened(row.name, _LONGEST) for row in rows], fontsize=8.5)
    for y, heading in headings:
        axes[0].annotate(
            heading, (0, y), xycoords=("axes fraction", "data"), xytext=(-3.5, 0), textcoords="offset points",
            ha="right", va="center", fontweight="bold", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
    return figure


def _share(axis: Axes, y: float, row: ShareRow, column: int, own: str, has_seeds: bool) -> None:
    cell = row.cells[column]
    is_seeds = has_seeds and column == 0
    axis.barh(y, cell.share, height=0.66, color=RED if cell.thin else BLUE if own == RED else own, lw=0)
    end = cell.share
    if has_seeds and not is_seeds:
        wanted = row.cells[0].share
        axis.plot([wanted, wanted], [y - 0.42, y + 0.42], color=INK, lw=1.2)
        end = max(end, wanted)
    mark = f"▼ {cell.text}" if cell.thin else cell.text
    shade = RED if cell.thin else MUTED if cell.count or not row.cells[0].count else GOLD
    axis.annotate(
        mark, (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5, color=shade,
        fontweight="bold" if cell.thin else "normal",
    )  # fmt: skip


def _shortened(name: str, most: int) -> str:
    return f"{name[: most - 1]}…" if len(name) > most else name


def space(found: RunInspection, measured: Space) -> Figure:
    """Draw instructions on the first two principal axes of the seeds, a panel an arm; circles are empty regions."""
    arms = [(place, column) for place, column in enumerate(found.columns) if column.is_arm]
    seeds = None if found.columns[0].is_arm else measured.points[0]
    across = min(_PANELS, len(arms))
    down = -(-len(arms) // across)
    figure = new_figure(2.5 * down + 0.1)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    colors = column_colors(found.columns)
    for axis, (place, column) in zip(axes, arms, strict=False):
        if seeds is not None:
            axis.scatter(*seeds.T, s=16, color=LINE, lw=0)
        axis.scatter(*measured.points[place].T, s=11, color=colors[column.name], lw=0, alpha=0.75)
        for point, region in zip(measured.region_points, measured.regions, strict=True):
            if not region.rows[column.name]:
                axis.plot(*point, "o", ms=17, mfc="none", mec=RED, mew=1.5)
        axis.set_title(f"{column.name} (n = {column.space.embedded if column.space else 0})", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.set_facecolor("none")
        axis.spines[["left", "bottom", "top", "right"]].set_visible(True)
        axis.spines[["left", "bottom", "top", "right"]].set_color(FAINT)
        axis.margins(0.1)
    for axis in axes[len(arms) :]:
        axis.set_axis_off()
    return figure


def column_colors(columns: Sequence[ColumnProfile]) -> dict[str, str]:
    """Return the color of each column by name; the seeds are grey."""
    arms = arm_colors([column.name for column in columns if column.is_arm])
    return {column.name: arms[column.name] if column.is_arm else GREY for column in columns}
