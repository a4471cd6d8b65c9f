"""Show the tables of the paper (published.yaml), with averages recomputed, beside a user's own scores.

A printed average that is not the mean of its row is flagged. A user's task that is not asked as the paper asked it
is flagged, with what differs: published numbers are for orientation, they are never paired and get no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from gra.config.loader import load_recipe
from gra.config.section import Section
from gra.evaluation.scorers.kinds import TASK_KINDS

PUBLISHED = Path(__file__).parent / "published.yaml"
_ROUNDING = 0.0101  # ten scores of two decimals, and the average's own
_LIKELIHOOD = "scored by likelihood, not by a generated answer"


class Source(Section):
    """The place where the tables are printed."""

    paper: str
    arxiv: str
    doi: str
    tables: str


class Protocol(Section):
    """The paper's evaluation protocol."""

    harness: str
    form: str
    backend: str
    max_new_tokens: int
    selection: str


class Column(Section):
    """One benchmark; `tasks` are the names that suites give it."""

    name: str
    tasks: list[str]
    items: int | None


class MainRow(Section):
    """One row of Table 1, in percent."""

    base: str
    seed: str
    data: str
    scores: list[float] = Field(min_length=10, max_length=10)
    average: float


class IterationRow(Section):
    """One row of the appendix table; `rows` is the size of the training set."""

    base: str
    seed: str
    rows: int
    scores: list[float] = Field(min_length=10, max_length=10)
    average: float


class RefinedRow(Section):
    """One row of Table 2: averages, one a seed dataset."""

    base: str
    data: str
    averages: dict[str, float]


class Published(Section):
    """The content of published.yaml."""

    source: Source
    protocol: Protocol
    columns: list[Column]
    main: list[MainRow]
    refined: list[RefinedRow]
    iterations: list[IterationRow]


@cache
def published() -> Published:
    """Return the paper's tables."""
    return load_recipe(PUBLISHED, Published).recipe


def recomputed(row: MainRow | IterationRow) -> float:
    """Return the mean of a row's ten scores, in percent."""
    return sum(row.scores) / len(row.scores)


def average_is_wrong(row: MainRow | IterationRow) -> bool:
    """Return whether the printed average is not the mean of its row, rounding allowed for."""
    return abs(recomputed(row) - row.average) > _ROUNDING


def beside(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paper's tables and the arms' scores in its columns, as compare.json's key `published`.

    Args:
        content: the content of compare.json; `arms` and `decoding` are read.

    Returns:
        source, protocol, columns; tables.{main, iterations}: rows with `recomputed` and `average_is_wrong`;
        tables.refined; arms: {ARM: {COLUMN: percent}}, empty when the suite has none of the columns;
        differs: {COLUMN: what is not as in the paper}.
    """
    paper = published()
    tasks = next(iter(content["arms"].values()))["tasks"]
    there = {column.name: name for column in paper.columns for name in column.tasks if name in tasks}
    flagged = {
        table: [{**row.model_dump(), "recomputed": round(recomputed(row), 3), "average_is_wrong": average_is_wrong(row)}
                for row in rows]
        for table, rows in (("main", paper.main), ("iterations", paper.iterations))
    }  # fmt: skip
    known = {column.name: column for column in paper.columns}
    return {
        "source": paper.source.model_dump(),
        "protocol": paper.protocol.model_dump(),
        "columns": list(known),
        "tables": {**flagged, "refined": [row.model_dump() for row in paper.refined]},
        "arms": {
            arm: {column: 100 * facts["tasks"][task]["mean"] for column, task in there.items()}
            for arm, facts in (content["arms"].items() if there else ())
        },
        "differs": {
            column: list(_differs(known[column], tasks[task], content["decoding"])) for column, task in there.items()
        },
    }


def _differs(column: Column, task: Mapping[str, Any], decoding: Mapping[str, Any]) -> Iterator[str]:
    paper = published().protocol
    kind = TASK_KINDS.get(task["kind"])  # a run of another release may have other kinds
    own = "lm-eval" if kind is not None and kind.native else "GRA"
    yield f"prompts and answer extraction are {own}'s, the paper's are {paper.harness}'s"
    if kind is not None and not kind.generates:
        yield _LIKELIHOOD
    elif decoding.get("max_new_tokens") != paper.max_new_tokens:
        yield f"at most {decoding.get('max_new_tokens')} new tokens, the paper {paper.max_new_tokens}"
    if column.items is None:
        yield f"a mean over {task['n']:,} items; the paper's column is an average of averages"
    elif task["n"] != column.items:
        yield f"{task['n']:,} items, the paper's scores are shares of {column.items:,}"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables as Markdown; `found` is compare.json's key `published`."""
    source, columns = found["source"], found["columns"]
    yield "## Beside the paper's tables\n"
    yield f"{source['paper']}, arXiv {source['arxiv']} ({source['tables']}); printed numbers, in percent."
    yield f"Not the same protocol, so no differences are tested. Mind that {found['protocol']['selection']}.\n"
    yield from _table_head("data", "base", "seed", *columns, "average", "mean of the row")
    for arm, scores in found["arms"].items():
        cells = [f"{scores[c]:.2f}" if c in scores else "" for c in columns]
        yield _line(f"**{arm}** (yours)", "", "", *cells, "", "")
    for row in found["tables"]["main"]:
        yield _line(row["data"], row["base"], row["seed"], *_scores(row), *_average(row))
    yield "\n! : the printed average is not the mean of its row.\n"
    for column, what in found["differs"].items():
        yield f"- {column}, yours: {'; '.join(what)}"
    missing = [column for column in columns if column not in found["differs"]]
    if missing:
        yield f"- not in your suite: {', '.join(missing)}"
    yield "\n### The paper's iterations (GRA data of rounds 1 to 5 together)\n"
    yield from _table_head("rows", "base", "seed", *columns, "average", "mean of the row")
    for row in found["tables"]["iterations"]:
        yield _line(f"{row['rows']:,}", row["base"], row["seed"], *_scores(row), *_average(row))
    seeds = list(found["tables"]["refined"][0]["averages"])
    yield "\n### The paper's Table 2 (averages)\n"
    yield from _table_head("data", "base", *seeds)
    for row in found["tables"]["refined"]:
        yield _line(row["data"], row["base"], *(f"{row['averages'][seed]:.2f}" for seed in seeds))
    yield ""


def _scores(row: Mapping[str, Any]) -> list[str]:
    return [f"{score:.2f}" for score in row["scores"]]


def _average(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['average']:.2f}", f"{row['recomputed']:.2f}{' !' if row['average_is_wrong'] else ''}"


def _table_head(*names: str) -> tuple[str, str]:
    return _line(*names), "|" + "---|" * len(names)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
