"""Write a comparison in words and tables, for a terminal and as Markdown, from the content of compare.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from gra.core.text.plain_text import printable_line
from gra.evaluation.compare import published

_COUNTS = ("wins", "losses", "ties")
_STYLES = {"better": "green", "non-inferior": "cyan", "worse": "red", "inconclusive": "dim"}
_EXPLANATION = """\
Scores are means over items with Wilson intervals; differences are paired by item, in percentage points, with
{level:.0%} intervals. p is the mid-p McNemar test (the t test when there are several training seeds, clusters, or
scores other than 0 and 1), adjusted after Holm over all arms and tasks compared with the same reference.

- **better**: the interval lies above 0 and the adjusted p is at most 0.05
- **non-inferior**: not better, but a loss of {points:.1f} points or more is ruled out
- **worse**: the interval lies below 0, the adjusted p is at most 0.05, and a loss of {points:.1f} points is possible
- **inconclusive**: none of these; MDE is the difference that would have been found four times in five

"p inferior" is the one-sided p of such a loss, not adjusted; below 0.025 it is ruled out.
"""

_DRAWN = {"best": "best", "seeds": "as the seeds"}


def table(content: Mapping[str, Any]) -> Table:
    """Return a table with one row per task and arm."""
    shown = Table(title=Text(printable_line(f"{content['suite']['name']}, baseline {content['baseline']}")))
    references = _references(content)
    for heading in ("task", "arm", "score", "ended", *(f"vs {name}" for name in references.values())):
        shown.add_column(
            Text(printable_line(heading)), justify="left" if heading in ("task", "arm") else "right", overflow="fold"
        )
    previous = None
    for task, arm, figures, entries in _rows(content):
        if previous not in (None, task):
            shown.add_section()
        cells = []
        for entry in entries:
            style = _STYLES[entry["verdict"]] if entry else ""
            cells.append(f"[{style}]{_difference(entry)}[/{style}]" if entry and style else _difference(entry))
        score = f"{100 * figures['mean']:.1f} %"
        names = (Text(printable_line(name)) for name in (task if task != previous else "", arm))
        shown.add_row(*names, score, _share(figures.get("stopped")), *cells)
        previous = task
    if not content["comparable"]:
        shown.caption = "NOT COMPARABLE: the models were not asked the same; see the notes in compare.md"
    return shown


def markdown(content: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    references = _references(content)
    lines = [f"# {content['suite']['name']}: {', '.join(content['arms'])}", ""]
    lines += [f"> {note}\n" for note in content["notes"]]
    lines += _header(
        "task", "arm", "n", "score", "ended", "no answer", "tokens", *(f"vs {name}" for name in references.values())
    )
    for task, arm, figures, entries in _rows(content):
        tokens = figures.get("mean_tokens")
        cells = [task, arm, str(figures.get("n", "")), _score(figures)]
        cells += [_share(figures.get("stopped")), _share(figures.get("unread"))]
        cells += ["" if tokens is None else f"{tokens:.0f}", *map(_difference, entries)]
        lines.append(f"| {' | '.join(cells)} |")
    explanation = _EXPLANATION.format(level=content["level"], points=100 * content["margin"])
    lines += ["", explanation, *_data(content), *_pairs(content), *_clean(content), *_samples(content)]
    if "published" in content:
        lines += published.lines(content["published"])
    return "\n".join(lines).rstrip() + "\n"


def _references(content: Mapping[str, Any]) -> dict[str, str]:
    return {key: content[key] for key in ("baseline", "untuned") if content[key] is not None}


def _rows(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], list[Mapping[str, Any] | None]]]:
    """Yield (task, arm, its figures, its comparison with each reference) for the macro-average and every task."""
    pairs = {(pair["arm"], pair["against"]): pair for pair in content["pairs"]}
    names = list(next(iter(content["arms"].values()))["tasks"])
    for task in names if len(names) == 1 else [None, *names]:
        for arm, summary in content["arms"].items():
            figures = summary["overall"] if task is None else summary["tasks"][task]
            entries = [
                None if pair is None else pair["overall"] if task is None else pair["tasks"][task]
                for pair in (pairs.get((arm, against)) for against in _references(content))
            ]
            yield "mean of tasks" if task is None else task, arm, figures, entries


def _data(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows that each arm was trained on, and what they cost."""
    known = {arm: facts["data"] for arm, facts in content["arms"].items() if "data" in facts}
    if not known:
        return
    parts = ("generation", "review", "preparation", "total")
    yield "## Rows and their cost\n"
    yield "In tokens x billions of parameters.\n"
    yield from _header("arm", "rows from", "rows", "of", *parts)
    for arm, data in known.items():
        draw = data.get("draw", "even")
        drawn = "" if draw == "even" else f", {_DRAWN.get(draw, draw)}"
        cells = [arm, f"{data['of'] or arm}, {data['part']}{drawn}", str(data["rows"]), str(data["available"])]
        cells += [f"{data['cost'][key]:.0f}" if data["cost"] else "–" for key in parts]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _pairs(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield counts, adjusted p and categories of every pair."""
    for pair in content["pairs"]:
        yield f"## {pair['arm']} against {pair['reference']}\n"
        yield from _header("task", "category", "n", "difference", "p (Holm)", "p inferior", *_COUNTS, "MDE")
        for task, entry in pair["tasks"].items():
            for name, part in [("all", entry), *entry["categories"].items()]:
                cells = [task, name, str(part["n"]), _difference(part), f"{part['p']:.3f} ({part['p_holm']:.3f})"]
                cells += [f"{part['p_inferior']:.3f}", *(str(part[key]) for key in _COUNTS)]
                yield f"| {' | '.join([*cells, _points(part['mde']).lstrip('+')])} |"
        yield ""


def _clean(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield scores on the items that no training set was found to contain."""
    if "contamination" not in content:
        return
    found = content["contamination"]
    yield "## Without contaminated items\n"
    yield f"Checks: {', '.join(f'`{folder}`' for folder in found['checks'])}. No verdicts here; an item counts as"
    yield "contaminated for all arms when any check says so.\n"
    yield from _header("task", "comparison", "items", "contaminated", "suspect", "all items", "clean items")
    for pair in content["pairs"]:
        for task, entry in pair["tasks"].items():
            counts = [str(found["tasks"][task][key]) for key in ("items", "contaminated", "suspect")]
            clean = _interval(entry["clean"]) if "clean" in entry else "none left"
            cells = [task, f"{pair['arm']} - {pair['reference']}", *counts, _interval(entry), clean]
            yield f"| {' | '.join(cells)} |"
    yield ""


def _samples(content: Mapping[str, Any]) -> Iterator[str]:
    if content["samples"]:
        yield "## Some answers on which they differ\n"
    for sample in content["samples"]:
        result = "wins over" if sample["outcome"] == "win" else "loses to"
        yield f"- **{sample['item']}** ({sample['task']}): {_line(sample['question'])}"
        yield f"  - {sample['arm']} {result} {sample['reference']}"
        yield f"  - {sample['arm']}: {_line(sample['output'])}"
        yield f"  - {sample['reference']}: {_line(sample['reference_output'])}"


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def _score(figures: Mapping[str, Any]) -> str:
    interval = f" [{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]" if "low" in figures else ""
    return f"{100 * figures['mean']:.1f} %{interval}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(entry: Mapping[str, Any]) -> str:
    return f"{_points(entry['difference'])} [{_points(entry['low'])}, {_points(entry['high'])}]"


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    text = f"{_interval(entry)} {entry['verdict']}"
    return f"{text} (MDE {100 * entry['mde']:.1f})" if entry["verdict"] == "inconclusive" else text


def _line(text: str | None) -> str:
    short = " ".join((text or "").split())
    return f"`{short[:200].replace('`', chr(39))}`" if short else "(nothing)"
