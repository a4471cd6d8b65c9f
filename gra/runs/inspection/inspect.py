"""Compare the rows of a run's arms with its seeds: `gra inspect runs/NAME`, and a section of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gra.core.errors import DataError, GraError
from gra.core.run_folder import MANIFEST
from gra.data.embedder import Embedder
from gra.models.catalog import cached, resolve
from gra.models.entries import entry_of
from gra.runs.contents import RunContents, read_contents
from gra.runs.inspection.columns import InspectedColumn, gather_columns
from gra.runs.inspection.cut_off import CutOff, count_cut_off
from gra.runs.inspection.profile import NO_DOMAIN, ColumnProfile, profile_column
from gra.runs.inspection.space import Embed, Region, Space, measure_space
from gra.stats.diversity import rarer

ThinPart = Literal["domain", "request", "constraint", "region"]
_MUCH = 0.5  # of the seeds' share: below it a part may be thin
_LEVEL = 0.05


@dataclass(frozen=True)
class ThinFinding:
    """Name what is much rarer in an arm than in the seeds.

    Attributes:
        arm: the arm's name.
        part: what is counted.
        name: which domain, kind or constraint, or the region's typical seed.
        count: rows of it in the arm.
        rows: rows of the arm.
        seed_count: seeds of it.
        seeds: all seeds.
        p: chance of so few rows if it were as frequent as in the seeds (Fisher's exact test).
    """

    arm: str
    part: ThinPart
    name: str
    count: int
    rows: int
    seed_count: int
    seeds: int
    p: float


@dataclass(frozen=True)
class RunInspection:
    """Hold what the rows of a run look like.

    Attributes:
        run: the run folder.
        columns: the seeds first, where they were found, then every arm with a row.
        embedder: the model that embedded the instructions; None where there was none.
        space: what the embeddings show.
        thin: what is much rarer in an arm than in the seeds.
        notes: what was left out, and why.
    """

    run: Path
    columns: list[ColumnProfile]
    embedder: str | None
    space: Space | None
    thin: list[ThinFinding]
    notes: list[str]

    @property
    def regions(self) -> list[Region]:
        """The regions of the seeds, most seeds first; empty without an embedder or without seeds."""
        return self.space.regions if self.space else []

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON values."""
        return {
            "run": str(self.run),
            "embedder": self.embedder,
            "vendi_rows": self.space.equal if self.space else None,
            "columns": [asdict(column) for column in self.columns],
            "regions": [asdict(region) for region in self.regions],
            "thin": [asdict(finding) for finding in self.thin],
            "notes": self.notes,
        }


def inspect_run(run: Path, embedder: str | None = None) -> RunInspection:
    """Look at the rows of a synthesis run, or of all arms of an experiment.

    Args:
        run: the run folder.
        embedder: the model that embeds instructions, which may be downloaded. None takes the one of the run's
            deduplication where it is in the cache.

    Raises:
        DataError: the folder is no run, has no rows, or a file of it cannot be read.
        RecipeError: there is no such embedder.
        ModelUnavailable: the embedder cannot be had.
    """
    if not (run / MANIFEST).is_file():
        raise DataError(
            f"{run} is not a run folder (it has no {MANIFEST}); give the folder of a synthesis or an experiment"
        )
    found = inspect_contents(read_contents(run), embedder)
    if found is None:
        raise DataError(
            f"{run} holds no accepted row of a synthesis; run it to its end, or give the folder of one that has rows"
            " (of a merged dataset, one of its runs)"
        )
    return found


def inspect_contents(contents: RunContents, embedder: str | None = None) -> RunInspection | None:
    """Look at the rows of a run that was read; None where no arm has a row.

    Args:
        contents: the run.
        embedder: as for `inspect_run`.

    Raises:
        RecipeError: there is no such embedder.
        ModelUnavailable: the embedder cannot be had.
    """
    columns, notes = gather_columns(contents)
    if not any(column.arm for column in columns):
        return None
    cut_off = [_cut_off(contents.run, column, notes) for column in columns]
    name, embed = _embedder(contents, embedder, notes)
    space = measure_space(columns, embed) if embed is not None else None
    profiles = [
        profile_column(column, lost, space.figures[place] if space else None)
        for place, (column, lost) in enumerate(zip(columns, cut_off, strict=True))
    ]
    return RunInspection(contents.run, profiles, name if space else None, space, find_thin(profiles, space), notes)


def find_thin(columns: Sequence[ColumnProfile], space: Space | None) -> list[ThinFinding]:
    """List what is at most half as frequent in an arm as in the seeds, beyond chance.

    Args:
        columns: the seeds first; without them nothing can be thin.
        space: where regions were found.
    """
    if not columns or columns[0].is_arm:
        return []
    return [
        finding
        for arm in columns[1:]
        for finding in _thin_parts(columns[0], arm, space.regions if space else [])
        if finding.count / finding.rows <= _MUCH * finding.seed_count / finding.seeds and finding.p <= _LEVEL
    ]


def _thin_parts(seeds: ColumnProfile, arm: ColumnProfile, regions: Sequence[Region]) -> Iterator[ThinFinding]:
    """Yield every part of the seeds with its count in the arm."""
    named: tuple[tuple[ThinPart, dict[str, int], dict[str, int]], ...] = (
        # A model names the domains of seeds that have none, so these cannot be compared.
        ("domain", {} if NO_DOMAIN in seeds.domains else seeds.domains, arm.domains),
        ("request", seeds.kinds, arm.kinds),
        ("constraint", {"any": seeds.constrained, **seeds.constraints}, {"any": arm.constrained, **arm.constraints}),
    )
    for part, base, made in named:
        for name, count in base.items():
            yield _finding(arm, part, name, (made.get(name, 0), arm.looked_at), (count, seeds.looked_at))
    if seeds.space and arm.space:
        for region in regions:
            yield _finding(
                arm, "region", region.typical, (region.rows[arm.name], arm.space.embedded),
                (region.rows[seeds.name], seeds.space.embedded),
            )  # fmt: skip


def _finding(
    arm: ColumnProfile, part: ThinPart, name: str, made: tuple[int, int], base: tuple[int, int]
) -> ThinFinding:
    return ThinFinding(arm.name, part, name, *made, *base, rarer(*made, *base))


def _cut_off(run: Path, column: InspectedColumn, notes: list[str]) -> CutOff | None:
    # SELF-GUIDE leaves out draws that are cut off, and rejects a candidate with too few.
    if column.arm is None or column.arm.recipe.get("self_guide"):
        return None
    folder = run / "arms" / column.arm.name
    try:
        return count_cut_off(folder if folder.is_dir() else run, column.arm)
    except GraError as error:
        notes.append(f"How many answers of {column.name} were cut off is not known: {error}.")
        return None


def _embedder(contents: RunContents, named: str | None, notes: list[str]) -> tuple[str | None, Embed | None]:
    """Return the embedder and its name, or a note on why there is none.

    A run folder may come from others. So its recipe alone loads only models of the catalog.
    """
    if named is not None:
        return named, Embedder(resolve(named).path).encode
    used = [arm for arm in contents.arms if arm.spec.deduplicates and arm.recipe.get("dedup", {}).get("embedder")]
    if not used:
        notes.append(
            "No arm deduplicates by an embedder, so nothing is said of similarity; name one with `--embedder`."
        )
        return None, None
    name = str(used[0].recipe["dedup"]["embedder"])
    try:
        if entry_of(name) is None:
            problem = "is no model of the catalog"
        elif not cached(name):
            problem = "is not in the cache"
        else:
            licenses = [str(each) for each in used[0].recipe.get("accept_licenses") or ()]
            return name, Embedder(resolve(name, offline=True, accept_licenses=licenses).path).encode
    except GraError as error:
        problem = f"cannot be used ({error})"
    notes.append(f"The embedder {name} {problem}, so nothing is said of similarity; name one with `--embedder`.")
    return None, None
