"""Show what changed between two synthesis runs, on one screen: `gra diff runs/a runs/b`.

Rows are the same when candidate and texts are. An answer is reused when one payment serves both runs: they share a
ledger, or one ledger began as a copy of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from gra.core.errors import DataError
from gra.core.files import refuse_special_files
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED, find_ledger, read_resolved_recipe
from gra.core.text.plain_text import printable, printable_line
from gra.core.types import State
from gra.data.export import read_lineage
from gra.ledger.reader import LedgerReader

Pair = tuple[Any, Any]
Changes = dict[str, Pair]
_ABSENT = "-"
_MOST = 12  # lines of one section on the screen; --json has all of them


@dataclass(frozen=True)
class Diff:
    """The differences between two runs; every pair is (of A, of B)."""

    a: str
    b: str
    recipe: Changes
    seeds: Pair | None  # digests, when they differ
    models: Changes  # member to identity
    prompts: Changes  # prompt to digest
    states: Changes  # counts, all of them
    same: list[str]
    changed: list[str]
    removed: list[str]
    added: list[str]
    common_texts: int
    fates: dict[str, int]
    answers: Pair
    answers_in_both: int
    answers_reused: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the differences for `--json`."""
        return asdict(self)

    def screen(self) -> RenderableType:
        """Return the differences for a terminal."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        yield Text(f"A  {printable_line(self.a)}\nB  {printable_line(self.b)}\n")
        changes = {f"recipe  {key}": pair for key, pair in self.recipe.items()}
        if self.seeds:
            changes["seeds"] = self.seeds
        changes |= {f"model  {name}": pair for name, pair in self.models.items()}
        changes |= {f"prompt  {name}": pair for name, pair in self.prompts.items()}
        yield _table("what was given", changes) if changes else Text("given the same recipe, seeds, models and prompts")
        yield Text()
        yield _table("candidates", self.states, numbers=True)
        if self.fates:
            shown = "; ".join(f"{fate}: {count:,}" for fate, count in list(self.fates.items())[:_MOST])
            yield Text(f"the same texts, another end  {shown}")
        yield Text()
        yield Text(
            f"rows  {len(self.same):,} the same, {len(self.changed):,} with other texts, {len(self.removed):,} only "
            f"in A, {len(self.added):,} only in B (by candidate); {self.common_texts:,} texts are in both"
        )
        for name, ids in (("other texts", self.changed), ("only in A", self.removed), ("only in B", self.added)):
            if ids:
                yield Text(f"  {name}: {', '.join(map(printable, ids[:6]))}{', …' if len(ids) > 6 else ''}")
        reused = (
            "no ledger, so reuse is not known" if self.answers_reused is None else f"{self.answers_reused:,} reused"
        )
        yield Text(
            f"answers its candidates stand on  A {self.answers[0]:,}, B {self.answers[1]:,}; "
            f"{self.answers_in_both:,} in both, {reused}"
        )


@dataclass(frozen=True)
class _Side:
    """The compared parts of one run."""

    facts: Mapping[str, Any]
    recipe: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    answers: set[str]
    payments: Mapping[str, float] | None


def diff(a: Path, b: Path) -> Diff:
    """Compare two synthesis runs.

    Raises:
        DataError: when a folder is no finished synthesis run; the arms of an experiment are named.
    """
    one, two = _read(a), _read(b)
    kept = [{name: row for name, row in side.rows.items() if row["state"] == State.ACCEPTED} for side in (one, two)]
    both = [name for name in kept[0] if name in kept[1]]
    same = [name for name in both if _texts(kept[0][name]) == _texts(kept[1][name])]
    shared = one.answers & two.answers
    states = [Counter(row["state"] for row in side.rows.values()) for side in (one, two)]
    return Diff(
        a=str(a),
        b=str(b),
        recipe=_changes(one.recipe, two.recipe),
        seeds=_changes(*({"": side.facts.get("seeds_sha256")} for side in (one, two))).get(""),
        models=_changes(_models(one.facts), _models(two.facts)),
        prompts=_changes(one.facts.get("prompts", {}), two.facts.get("prompts", {})),
        states={state.value: (states[0][state], states[1][state]) for state in State},
        same=same,
        changed=[name for name in both if name not in set(same)],
        removed=[name for name in kept[0] if name not in kept[1]],
        added=[name for name in kept[1] if name not in kept[0]],
        common_texts=sum((Counter(map(_texts, kept[0].values())) & Counter(map(_texts, kept[1].values()))).values()),
        fates=_fates(one.rows, two.rows),
        answers=(len(one.answers), len(two.answers)),
        answers_in_both=len(shared),
        answers_reused=_reused(one.payments, two.payments, shared),
    )


def _read(run: Path) -> _Side:
    refuse_special_files(run)
    facts = RunFolder(run).manifest().get("synthesis")
    if not facts or not (run / "lineage.parquet").is_file():
        arms = sorted(str(folder.parent) for folder in run.glob("arms/*/lineage.parquet"))
        hint = f"; it is an experiment, compare its arms: {', '.join(arms)}" if arms else ""
        raise DataError(f"{run} is not a finished synthesis run{hint}")
    rows = {row["candidate_id"]: row for row in read_lineage(run / "lineage.parquet")}
    if not (recipe := read_resolved_recipe(run)):
        raise DataError(f"{run} has no {RESOLVED}, or an empty one; see `gra verify {run}`")
    payments = None
    if ledger := find_ledger(run):
        reader = LedgerReader(ledger)
        payments = reader.payments()
        reader.close()
    return _Side(facts, dict(_flat(recipe)), rows, {key for row in rows.values() for key in row["calls"]}, payments)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _models(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity of each member's weights, or of each model without a committee."""
    models = {model["name"]: model.get("identity", "") for model in facts.get("models", {}).values()}
    members = {name: member["model"] for name, member in facts.get("members", {}).items()}
    return {name: models.get(model, model) for name, model in members.items()} or models


def _changes(one: Mapping[str, Any], two: Mapping[str, Any]) -> Changes:
    keys = dict.fromkeys([*one, *two])
    pairs = {key: (one.get(key, _ABSENT), two.get(key, _ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["instruction"], row["response"]


def _fates(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, int]:
    """Count the candidates with the same texts and another state, by both states."""
    ends = Counter(
        f"{row['state']} -> {two[name]['state']}"
        for name, row in one.items()
        if name in two and _texts(row) == _texts(two[name]) and row["state"] != two[name]["state"]
    )
    return dict(ends.most_common())


def _reused(one: Mapping[str, float] | None, two: Mapping[str, float] | None, shared: set[str]) -> int | None:
    if one is None or two is None:
        return None
    return sum(key in one and one[key] == two.get(key) for key in shared)


def _table(title: str, pairs: Changes, *, numbers: bool = False) -> Table:
    side = Column("A", justify="right") if numbers else Column("A", overflow="fold")
    other = Column("B", justify="right") if numbers else Column("B", overflow="fold")
    table = Table(title, side, other, box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for key, pair in list(pairs.items())[:_MOST]:
        table.add_row(Text(printable(key)), *(Text(_short(value)) for value in pair))
    if len(pairs) > _MOST:
        table.add_row(Text(f"and {len(pairs) - _MOST} more (--json has all)", style="dim"))
    return table


def _short(value: Any) -> str:
    text = " ".join(
        printable(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)).split()
    )
    return text if len(text) <= 44 else f"{text[:43]}…"
