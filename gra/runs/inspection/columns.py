"""Gather the texts that `gra inspect` compares: the seeds of a run, and the accepted rows of each arm.

Of more than `MOST_ROWS` rows a part is read, drawn by a digest of the instruction. So arms that keep the seeds'
instructions are compared on the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from gra.config.synthesis import SeedsConfig
from gra.core.errors import GraError
from gra.core.hashing import digest, file_digest
from gra.core.types import State
from gra.data.seeds.hub import seeds_on_disk
from gra.data.seeds.load import load_seeds
from gra.runs.contents import ArmRun, Row, RunContents

MOST_ROWS = 2000
SEEDS = "seeds"


@dataclass(frozen=True, slots=True)
class InspectedRow:
    """Hold one seed or one accepted row."""

    domain: str
    instruction: str
    response: str


@dataclass(frozen=True)
class InspectedColumn:
    """Hold the rows of the seeds or of one arm.

    Attributes:
        name: "seeds", or the arm's name.
        arm: the arm; None for the seeds.
        count: how many rows there are.
        rows: those that are looked at.
    """

    name: str
    arm: ArmRun | None
    count: int
    rows: list[InspectedRow]


def gather_columns(contents: RunContents) -> tuple[list[InspectedColumn], list[str]]:
    """Return the seeds, where they can be found, and every arm with a row; and a note on what was left out."""
    arms = [_column(arm.name, arm, list(_accepted(arm))) for arm in contents.arms]
    # An arm may be called as the seeds are, and must not hide them.
    arms = [replace(c, name=f"{SEEDS} (arm)") if c.name == SEEDS else c for c in arms if c.count]
    seeds, notes = _find_seeds(contents)
    columns = [_column(SEEDS, None, seeds), *arms] if seeds else arms
    if any(column.count > len(column.rows) for column in columns):
        notes.append(f"Of more than {MOST_ROWS:,} rows as many are looked at, drawn by a digest of the instruction.")
    return columns, notes


def drawn(rows: Sequence[InspectedRow], most: int) -> list[InspectedRow]:
    """Return at most `most` rows, in their order, drawn by a digest of the instruction."""
    if len(rows) <= most:
        return list(rows)
    lots = sorted(range(len(rows)), key=lambda place: (digest(rows[place].instruction), place))
    return [rows[place] for place in sorted(lots[:most])]


def _column(name: str, arm: ArmRun | None, rows: Sequence[InspectedRow]) -> InspectedColumn:
    return InspectedColumn(name, arm, len(rows), drawn(rows, MOST_ROWS))


def _accepted(arm: ArmRun) -> Iterator[InspectedRow]:
    return (_inspected(row) for row in arm.rows if row["state"] == State.ACCEPTED)


def _inspected(row: Row) -> InspectedRow:
    return InspectedRow(row["domain"], row["instruction"], row["response"])


def _find_seeds(contents: RunContents) -> tuple[list[InspectedRow], list[str]]:
    """Return the seeds from their file, else from an arm that copied them; and a note where that matters."""
    notes = []
    if len({arm.facts.get("seeds_sha256") for arm in contents.arms}) > 1:
        notes.append("The arms have seeds of different files; those of the first arm whose file is found are shown.")
    for arm in contents.arms:
        if rows := _from_file(contents.run, arm):
            return rows, notes
    for arm in contents.arms:
        if arm.spec.module == "vanilla" and arm.rows:
            return [_inspected(row) for row in arm.rows], [
                *notes,
                f"The seed file was not found as it was read by the run; the seeds are taken from the arm {arm.name}.",
            ]
    return [], [*notes, "The seed file was not found as it was read by the run, so no seeds are shown beside the rows."]


def _from_file(run: Path, arm: ArmRun) -> list[InspectedRow]:
    """Return the seeds of an arm from the file that its recipe names; none unless the file is as it was read."""
    recipe, known = arm.recipe, arm.facts.get("seeds_sha256")
    try:
        source = SeedsConfig.model_validate(recipe.get("seeds"))
        whole = run.resolve()
        # A recipe's path starts from the working directory of the run: runs/NAME is two folders below it.
        places = [whole / "recipe", whole.parent.parent / "recipe", whole.parent / "recipe"]
        found = (seeds_on_disk(source, place) for place in places)
        file = next((file for file in found if file is not None and file_digest(file) == known), None)
        if file is None:
            return []
        seeds = load_seeds(file, recipe["domains"], source, seed=recipe["seed"]).rows
    except (GraError, OSError, ValidationError, KeyError, TypeError, ValueError):
        return []  # a damaged recipe names no seeds; the note says that there are none
    return [InspectedRow(seed.domain, seed.instruction, seed.response) for seed in seeds]
