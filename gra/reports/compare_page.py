"""Write `compare.html`: one comparison as a page, with the items on which two models differ side by side.

The page is self-contained: styles, the forest plot, the flipped items and the script that filters them are inline.
Texts of models are untrusted: the template escapes them, and the script sets them as text only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gra.core.files import atomic_path
from gra.reports import figures
from gra.reports.comparison import read_comparison
from gra.reports.html import render

PAGE = "compare.html"
_MOST = 3000  # flipped items on the page, spread over comparisons and tasks; about 10 MB
_LONGEST = 4000  # characters of a text on the page
_TEXTS = ("question", "output", "reference_output")


def write_page(content: Mapping[str, Any], flipped: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write compare.html and its forest plot as PNG.

    Args:
        content: Of compare.json.
        flipped: Every item that an arm wins or loses.
        folder: Where the files go.

    Returns:
        The files.
    """
    comparison = read_comparison(content)
    assert comparison is not None
    caption = (
        f"Paired differences with {comparison.level:.0%} intervals, in points; right of zero is better. The shaded "
    )
    caption += f"band is the margin of {100 * comparison.margin:g} points."
    forest = figures.draw(
        "comparison", caption, folder / "figures", figures.forest, comparison.forest(), comparison.arms(),
        comparison.margin,
    )  # fmt: skip
    shown = _shown(flipped)
    text = render(
        "compare.html.jinja",
        {
            "title": f"{', '.join(comparison.arms())} on {comparison.suite}",
            "content": content,
            "comparison": comparison,
            "forest": forest,
            "flips": shown,
            "all_flips": len(flipped),
            "longest": _LONGEST,
        },
    )
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [folder / PAGE, folder / "figures" / f"{forest.name}.png"]


def _shown(flipped: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `_MOST` items, as many of each comparison, task and outcome, with long texts cut."""
    groups = Counter(map(_group, flipped))
    left, rest = _MOST, sorted(groups.values())
    while rest and rest[0] * len(rest) <= left:  # groups that fit whole leave their share to the others
        left -= rest.pop(0)
    share = left // len(rest) if rest else _MOST
    taken: Counter[tuple[str, ...]] = Counter()
    shown = []
    for row in flipped:
        taken[_group(row)] += 1
        if taken[_group(row)] <= share or not rest:
            shown.append({**row, **{key: _cut(row[key]) for key in _TEXTS}})
    return shown


def _group(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("arm", "reference", "task", "outcome"))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} characters more)"
