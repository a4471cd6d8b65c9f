"""Arrange an inspection as rows and cells, which the terminal and the report show alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gra.checks.request_kinds import RequestKind
from gra.core.text.plain_text import printable_line
from gra.runs.inspection.inspect import RunInspection, ThinPart
from gra.runs.inspection.profile import CheckedRows, ColumnProfile, WordCounts
from gra.runs.inspection.space import SpaceFigures

_MOST_CONSTRAINTS = 8
_MOST_DOMAINS = 15
_LONGEST_NAME = 60
ABSENT = "–"
GROUPS: dict[ThinPart, str] = {
    "domain": "domain",
    "request": "kind of request",
    "constraint": "format constraint",
    "region": "region of the seeds, by a typical one",
}


@dataclass(frozen=True)
class ShareCell:
    """Hold how many rows of a column are of one part.

    Attributes:
        count: rows of the part.
        rows: rows of the column.
        thin: whether this is much rarer than in the seeds, beyond chance.
    """

    count: int
    rows: int
    thin: bool

    @property
    def share(self) -> float:
        """The share of 1."""
        return self.count / self.rows

    @property
    def text(self) -> str:
        """The share in percent; "none" without a row."""
        return "none" if not self.count else percent(self.share)


@dataclass(frozen=True)
class ShareRow:
    """Hold one part of the rows, such as a domain, with a cell a column."""

    group: ThinPart
    name: str
    cells: list[ShareCell]


def side_by_side(found: RunInspection, arms: int) -> Iterator[RunInspection]:
    """Yield the inspection in parts of at most `arms` arms, each with the seeds, where there are any."""
    seeds = [column for column in found.columns if not column.is_arm]
    others = [column for column in found.columns if column.is_arm]
    for start in range(0, len(others), arms):
        yield replace(found, columns=[*seeds, *others[start : start + arms]])


def headline_rows(found: RunInspection) -> list[tuple[str, list[str]]]:
    """Return the figures that are one cell a column, as (name, cells); rows without any figure are left out."""
    rows = [(name, [cell(column) for column in found.columns]) for name, cell in _headlines(found)]
    return [(name, cells) for name, cells in rows if set(cells) != {ABSENT}]


def share_rows(found: RunInspection) -> Iterator[ShareRow]:
    """Yield domains, kinds of request, constraints and regions, in this order."""
    thin = {(finding.arm, finding.part, finding.name) for finding in found.thin}

    def row(group: ThinPart, name: str, counts: list[int], totals: list[int]) -> ShareRow:
        names = [column.name for column in found.columns]
        cells = [ShareCell(n, of, (arm, group, name) in thin) for n, of, arm in zip(counts, totals, names, strict=True)]
        return ShareRow(group, part_name(group, name), cells)

    totals = [column.looked_at for column in found.columns]
    for name in _most_frequent([column.domains for column in found.columns], _MOST_DOMAINS):
        yield row("domain", name, [column.domains.get(name, 0) for column in found.columns], totals)
    for name in _most_frequent([column.kinds for column in found.columns], len(RequestKind)):
        yield row("request", name, [column.kinds.get(name, 0) for column in found.columns], totals)
    yield row("constraint", "any", [column.constrained for column in found.columns], totals)
    for name in _most_frequent([column.constraints for column in found.columns], _MOST_CONSTRAINTS):
        yield row("constraint", name, [column.constraints.get(name, 0) for column in found.columns], totals)
    embedded = [column.space.embedded if column.space else 0 for column in found.columns]
    for region in found.regions:
        yield row("region", region.typical, [region.rows[column.name] for column in found.columns], embedded)


def part_name(group: ThinPart, name: str) -> str:
    """Return the name of a part for people, on one line of at most 60 characters."""
    if group == "region":
        line = printable_line(name)
        return f"{line[: _LONGEST_NAME - 1]}…" if len(line) > _LONGEST_NAME else line
    shown = printable_line(name)
    return shown.replace("_", "-" if shown == "role_play" else " ") if group != "domain" else shown


def thin_sentences(found: RunInspection) -> list[str]:
    """Return a sentence for each arm with something thin."""
    by_arm: dict[str, list[str]] = {}
    for finding in found.thin:
        shares = f"{percent(finding.count / finding.rows)} against {percent(finding.seed_count / finding.seeds)}"
        what = "any format constraint" if (finding.part, finding.name) == ("constraint", "any") else ""
        what = what or f"{GROUPS[finding.part].split(' of the')[0]} “{part_name(finding.part, finding.name)}”"
        by_arm.setdefault(finding.arm, []).append(f"{what} ({shares})")
    return [f"Thin in {printable_line(arm)}, against the seeds: {'; '.join(parts)}." for arm, parts in by_arm.items()]


def percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return f"{share:.0%}" if share >= 0.01 or share == 0 else "< 1%"


def _most_frequent(counts: list[dict[str, int]], most: int) -> list[str]:
    """Return the names with the largest share in the first column, then those that only others have."""
    first = list(counts[0])
    others: Counter[str] = Counter()
    for column in counts[1:]:
        others.update(column)
    return [*first, *(name for name, _ in others.most_common() if name not in first)][:most]


def _headlines(found: RunInspection) -> Iterator[tuple[str, Callable[[ColumnProfile], str]]]:
    """Yield the name of each figure and how it is shown for a column."""
    yield "rows", lambda column: f"{column.rows:,}"
    if any(column.looked_at < column.rows for column in found.columns):
        yield "of them looked at", lambda column: f"{column.looked_at:,}"
    yield "words an instruction", lambda column: _words(column.instruction_words)
    yield "words a response", lambda column: _words(column.response_words)
    yield "lost at the length limit", _cut_off
    yield "checkable arithmetic", lambda column: _share(column.checked["math"].checkable, column.looked_at)
    yield "arithmetic right", lambda column: _right(column.checked["math"])
    yield "checkable format", lambda column: _share(column.checked["format"].checkable, column.looked_at)
    yield "format right", lambda column: _right(column.checked["format"])
    yield "different openings", lambda column: _share(column.different_openings, column.looked_at)
    yield "Vendi score", lambda column: _spatial(column, lambda space: space.vendi, ".1f")
    if found.space and found.space.equal:
        name = f"Vendi score, {found.space.equal:,} rows"
        yield name, lambda column: _spatial(column, lambda space: space.vendi_equal, ".1f")
    yield "cosine to nearest row", lambda column: _spatial(column, lambda space: space.nearest, ".2f")
    yield "cosine to nearest seed", lambda column: _spatial(column, lambda space: space.nearest_seed, ".2f")
    yield "seeds covered", lambda column: _spatial(column, lambda space: space.coverage, ".0%")


def _words(counts: WordCounts) -> str:
    return f"{counts.median:.0f} ({counts.p10:.0f}–{counts.p90:.0f})"


def _cut_off(column: ColumnProfile) -> str:
    if column.cut_off is None or not column.cut_off.candidates:
        return ABSENT
    return _share(column.cut_off.lost, column.cut_off.candidates)


def _right(rows: CheckedRows) -> str:
    return _share(rows.right, rows.checkable) if rows.checkable else ABSENT


def _share(count: int, of: int) -> str:
    return f"{percent(count / of)} of {of:,}"


def _spatial(column: ColumnProfile, figure: Callable[[SpaceFigures], float | None], form: str) -> str:
    value = figure(column.space) if column.space else None
    return ABSENT if value is None else format(value, form)
