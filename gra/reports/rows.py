"""Arrange the section of the report that looks at the rows of a run, with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gra.reports import figures, row_figures
from gra.runs.contents import RunContents
from gra.runs.inspection.inspect import inspect_contents
from gra.runs.inspection.table import headline_rows, percent, side_by_side, thin_sentences

_OPENINGS_SHOWN = 5
_ARMS_SHOWN = 4  # beside the seeds in a figure of shares


def rows_section(contents: RunContents, folder: Path) -> dict[str, Any] | None:
    """Return the content of the section about the rows; None where no arm has a row.

    Args:
        contents: the run.
        folder: where the figures go as PNG.
    """
    found = inspect_contents(contents)
    if found is None:
        return None
    names = [column.name for column in found.columns]
    has_seeds = not found.columns[0].is_arm
    caption = "Words of instructions and of responses. A line spans 10 % to 90 % of the rows, a bar the middle half; "
    caption += "the gap in the bar and the number are the median."
    lengths = figures.draw("row-lengths", caption, folder, row_figures.lengths, found.columns)
    caption = "Share of the rows by part."
    if has_seeds:
        caption += " Black lines mark the seeds' share. Red and ▼: thin, which is at most half of it, beyond chance."
    colors = row_figures.column_colors(found.columns)
    shares = [
        figures.draw(
            f"row-shares{f'-{number}' if number > 1 else ''}", caption, folder, row_figures.shares, part, colors
        )
        for number, part in enumerate(side_by_side(found, _ARMS_SHOWN), 1)
    ]
    space = None
    if found.space is not None:
        where = "the seeds (grey)" if has_seeds else "the first arm"
        caption = (
            f"Instructions, embedded by {found.embedder}, on the two principal axes of {where}; two axes show only "
        )
        caption += "a part of the distances."
        if has_seeds:
            caption += " Red circles: typical seeds of regions without a row of the arm."
        space = figures.draw("row-space", caption, folder, row_figures.space, found, found.space)
    return {
        "names": names,
        "seeds": has_seeds,
        "figures": headline_rows(found),
        "lengths": lengths,
        "shares": shares,
        "space": space,
        "openings": [
            {
                "name": column.name,
                "shown": [
                    (opening.words, percent(opening.count / column.looked_at))
                    for opening in column.openings[:_OPENINGS_SHOWN]
                ],
            }
            for column in found.columns
        ],
        "thin": thin_sentences(found),
        "notes": found.notes,
    }
