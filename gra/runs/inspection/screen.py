"""Show an inspection in a terminal: the figures, the shares with what is thin marked, and the frequent openings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from gra.core.text.plain_text import printable_line
from gra.runs.inspection.inspect import RunInspection
from gra.runs.inspection.profile import ColumnProfile
from gra.runs.inspection.table import (
    GROUPS,
    ShareCell,
    headline_rows,
    percent,
    share_rows,
    side_by_side,
    thin_sentences,
)

_OPENINGS_SHOWN = 5
_ARMS_SHOWN = 3
_NAME = 40  # characters of a region's name, so that three arms fit into 80 columns
_THIN, _NONE = "bold red", "yellow"
_KEY = (
    "Words: median (10 % to 90 %). ▼ is thin: at most half the seeds' share, beyond chance (Fisher's exact test, 5 %). "
    "docs/reports.md explains each figure."
)


def inspection_screen(found: RunInspection) -> RenderableType:
    """Return an inspection for a terminal."""
    return Group(*_parts(found))


def _parts(found: RunInspection) -> Iterator[RenderableType]:
    yield Text(printable_line(str(found.run)), style="bold")
    for part in side_by_side(found, _ARMS_SHOWN):
        yield from _tables(part)
    yield Text("frequent openings", style="bold")
    for column in found.columns:
        yield Text(f"  {printable_line(column.name)}: {_openings(column)}")
    yield Text()
    for sentence in thin_sentences(found):
        yield Text(sentence, style=_THIN)
    for note in found.notes:
        yield Text(printable_line(note), style=_NONE)
    yield Text(_KEY, style="dim")


def _tables(found: RunInspection) -> Iterator[RenderableType]:
    names = [printable_line(column.name) for column in found.columns]
    figures = _table("", names)
    for name, cells in headline_rows(found):
        figures.add_row(name, *cells)
    shares = _table("share of the rows", names)
    group = ""
    for row in share_rows(found):
        if row.group != group:
            group = row.group
            shares.add_section()
            shares.add_row(Text(GROUPS[row.group], style="bold"))
        shares.add_row(Text(f"  {row.name}"[:_NAME]), *map(_cell, row.cells))
    yield figures
    yield shares


def _table(name: str, columns: Sequence[str]) -> Table:
    first = Column(Text(name), no_wrap=True)
    others = [Column(Text(column), justify="right", no_wrap=True) for column in columns]
    return Table(first, *others, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _cell(cell: ShareCell) -> Text:
    if cell.thin:
        return Text(f"▼ {cell.text}", style=_THIN)
    return Text(cell.text, style="" if cell.count else _NONE)


def _openings(column: ColumnProfile) -> str:
    shown = column.openings[:_OPENINGS_SHOWN]
    each = (f"“{printable_line(each.words)}” {percent(each.count / column.looked_at)}" for each in shown)
    return ", ".join(each) or "none occurs twice"
