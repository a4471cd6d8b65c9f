"""Describe the rows of one column: lengths, kinds of request, format constraints, openings, and what can be checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gra.checks.instruction_constraints import read_constraints
from gra.checks.request_kinds import RequestKind, request_kind
from gra.checks.text_units import tokens, words
from gra.checks.verdicts import CheckedResponse, check_arithmetic, check_format
from gra.runs.inspection.columns import InspectedColumn
from gra.runs.inspection.cut_off import CutOff
from gra.runs.inspection.space import SpaceFigures

OPENING_WORDS = 3
_OPENINGS = 10  # of those that occur more than once
NO_DOMAIN = "not named"


@dataclass(frozen=True)
class WordCounts:
    """Give the percentiles of a number of words over the rows, the largest, and how many rows have no word."""

    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    most: int
    empty: int


@dataclass(frozen=True)
class CheckedRows:
    """Count the rows that a verifier can check, and those of them in which it finds nothing wrong."""

    checkable: int
    right: int


@dataclass(frozen=True)
class Opening:
    """Name the first words that several instructions share."""

    words: str
    count: int


@dataclass(frozen=True)
class ColumnProfile:
    """Describe the seeds, or the rows of an arm.

    Attributes:
        name: "seeds", or the arm's name.
        is_arm: False for the seeds.
        rows: how many rows there are.
        looked_at: the rows that all counts are of; fewer than `rows` where there are very many.
        constrained: rows whose instruction states a format constraint.
        constraints: rows by the kind of constraint; a row may have several.
        openings: the first words that occur more than once, most frequent first.
        different_openings: how many different first words there are.
        checked: by verifier, `math` and `format`.
        cut_off: candidates lost at the length limit; None where it is not known.
        space: figures of the embedded instructions; None without an embedder.
    """

    name: str
    is_arm: bool
    rows: int
    looked_at: int
    instruction_words: WordCounts
    response_words: WordCounts
    domains: dict[str, int]
    kinds: dict[str, int]
    constrained: int
    constraints: dict[str, int]
    openings: list[Opening]
    different_openings: int
    checked: dict[str, CheckedRows]
    cut_off: CutOff | None = None
    space: SpaceFigures | None = None


def profile_column(
    column: InspectedColumn, cut_off: CutOff | None = None, space: SpaceFigures | None = None
) -> ColumnProfile:
    """Describe a column with at least one row.

    Args:
        column: the rows.
        cut_off: what is known of answers at the length limit.
        space: the figures of its embedded instructions.
    """
    rows = column.rows
    asked = [read_constraints(row.instruction) for row in rows]
    kinds = Counter(request_kind(row.instruction) for row in rows)
    openings = Counter(_opening(row.instruction) for row in rows)
    return ColumnProfile(
        name=column.name,
        is_arm=column.arm is not None,
        rows=column.count,
        looked_at=len(rows),
        instruction_words=_counts([len(words(row.instruction)) for row in rows]),
        response_words=_counts([len(words(row.response)) for row in rows]),
        domains=dict(Counter(row.domain or NO_DOMAIN for row in rows).most_common()),
        kinds={kind.value: kinds[kind] for kind in RequestKind if kinds[kind]},
        constrained=sum(map(bool, asked)),
        constraints=dict(
            Counter(kind for each in asked for kind in sorted({check.kind for check in each})).most_common()
        ),
        openings=[Opening(text, count) for text, count in openings.most_common(_OPENINGS) if count > 1],
        different_openings=len(openings),
        checked={
            "math": _checked(check_arithmetic(row.instruction, row.response) for row in rows),
            "format": _checked(check_format(each, row.response) for each, row in zip(asked, rows, strict=True)),
        },
        cut_off=cut_off,
        space=space,
    )


def _opening(instruction: str) -> str:
    return " ".join(tokens(instruction[:200])[:OPENING_WORDS])


def _counts(found: list[int]) -> WordCounts:
    p10, p25, median, p75, p90 = (float(value) for value in np.percentile(found, (10, 25, 50, 75, 90)))
    return WordCounts(p10, p25, median, p75, p90, max(found), found.count(0))


def _checked(verdicts: Iterable[CheckedResponse | None]) -> CheckedRows:
    known = [verdict for verdict in verdicts if verdict is not None]
    return CheckedRows(len(known), sum(verdict.right for verdict in known))
