"""Check that a run is as it was written: `gra verify runs/quickstart`.

Three things are checked: every file against the digest in its manifest; every ledger for damage, and every recorded
answer against the request it answers; every row of every dataset against the lineage it comes from, and the lineage
against the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.errors import DataError, GraError, Mismatch
from gra.core.files import refuse_special_files
from gra.core.hashing import canonical_json
from gra.core.run_folder import MANIFEST, RunFolder
from gra.core.stored.resolved_recipe import find_ledger, run_of_version
from gra.data.export import dataset_rows, read_candidates, round_rows
from gra.data.lineage import iter_candidates
from gra.ledger.reader import LedgerReader
from gra.runs.contents import find_lineages
from gra.runs.decisions import read_decisions

_SHOWN = 8


@dataclass(frozen=True)
class VerifyResult:
    """Counts of what was checked and found as written."""

    files: int
    manifests: int
    answers: int
    rows: int
    decisions: int = 0

    def sentence(self) -> str:
        """Return the result as a sentence."""
        return (
            f"{self.files} files of {self.manifests} manifests, {self.answers:,} recorded answers and {self.rows:,} "
            "dataset rows are as they were written"
        ) + (f"; so are {self.decisions:,} decisions of people" if self.decisions else "")

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return asdict(self)


def verify(run: Path) -> VerifyResult:
    """Check a run folder; nothing in it is changed.

    Raises:
        DataError: when there is no manifest, or a pipe or device in place of a file.
        Mismatch: naming what does not hold.
    """
    refuse_special_files(run)
    manifests = sorted(run.rglob(MANIFEST))
    if not manifests:
        raise DataError(f"{run} holds no {MANIFEST}; it is not a run folder, or its run never finished a stage")
    problems: list[str] = []
    files = sum(_files(manifest.parent, problems) for manifest in manifests)
    made = (manifest.with_name("lineage.parquet") for manifest in manifests)
    lineages = sorted({*find_lineages(run), *(file for file in made if file.is_file())})
    beside = {file.parent: ledger.resolve() for file in lineages if (ledger := _ledger_of(file.parent, problems))}
    ledgers = sorted({*(file.resolve() for file in run.rglob("ledger.sqlite")), *beside.values()})
    keys = {ledger: _answers(ledger, problems) for ledger in ledgers}
    rows = decisions = 0
    for lineage in lineages:
        ledger = beside.get(lineage.parent)
        rows += _rows(lineage, keys[ledger] if ledger else {}, problems)
        decisions += _decisions(lineage, problems) if ledger and keys[ledger] is not None else 0
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise Mismatch(f"{run} is not what was written:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
    return VerifyResult(files, len(manifests), sum(len(found or ()) for found in keys.values()), rows, decisions)


def _files(folder: Path, problems: list[str]) -> int:
    try:
        return RunFolder(folder).verify()
    except (Mismatch, DataError) as found:
        problems.append(str(found))
        return 0


def _ledger_of(folder: Path, problems: list[str]) -> Path | None:
    try:
        return find_ledger(folder)
    except GraError as found:
        problems.append(str(found))
        return None


def _answers(ledger: Path, problems: list[str]) -> Mapping[str, float] | None:
    """Return the keys of a ledger; None when it does not pass its check."""
    reader = LedgerReader(ledger)
    try:
        found = list(reader.problems())
        problems += [f"{ledger}: {problem}" for problem in found]
        return None if found else reader.payments()
    finally:
        reader.close()


def _decisions(lineage: Path, problems: list[str]) -> int:
    """Compare the decisions that a lineage follows with those of the ledger, and return the number in the ledger."""
    try:
        recorded = read_decisions(lineage.parent)
        followed = [(c.id, decision) for c in iter_candidates(lineage) for decision in c.decisions]
    except DataError as error:
        problems.append(str(error))
        return 0
    unknown = [name for name, decision in followed if decision not in recorded.get(name, ())]
    if unknown:
        problems.append(f"{lineage} follows {len(unknown):,} decisions that are in no ledger, such as on {unknown[0]}")
    if run_of_version(lineage.parent) is not None:  # counted with the run itself
        return 0
    return sum(map(len, recorded.values()))


def _rows(lineage: Path, known: Mapping[str, float] | None, problems: list[str]) -> int:
    """Compare a dataset with its lineage, and return the number of rows."""
    try:
        candidates = read_candidates(lineage)
    except DataError as error:
        problems.append(str(error))
        return 0
    named = {key for candidate in candidates for key in candidate.calls}
    if known is not None and (unknown := sorted(named - known.keys())):
        problems.append(f"{lineage} names {len(unknown):,} answers that are in no ledger, such as {unknown[0][:12]}")
    count = 0
    rounds = {f"rounds/{number}": rows for number, rows in round_rows(candidates).items()}
    for name, expected in (dataset_rows(candidates) | rounds).items():
        file = lineage.parent / "dataset" / f"{name}.parquet"
        if file.is_file():  # a dataset of an earlier version has fewer files; which there must be, the manifest says
            count += len(expected)
            problems += [f"{file}: {problem}" for problem in _differences(file, name, expected)]
    return count


def _alternative_keys(rows: list[dict[str, Any]]) -> set[str]:
    """Return the keys that a file's alternative responses have; release 0.1 wrote fewer."""
    return {key for row in rows for other in json.loads(row.get("drafts") or "[]") for key in other}


def _only(record: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key in keys}


def _differences(file: Path, part: str, expected: list[dict[str, Any]]) -> Iterator[str]:
    name = "candidate_id" if part == "lineage" else "id"
    try:
        found = pq.read_table(file).to_pylist()
        there = {canonical_json(row): row[name] for row in found}
        alternatives = _alternative_keys(found)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        yield f"it cannot be read ({error})"
        return
    columns = set(found[0]) if found else set()
    wanted = {}
    for row in expected:
        known = {key: value for key, value in row.items() if key in columns}
        if "drafts" in known:
            known["drafts"] = canonical_json([_only(other, alternatives) for other in json.loads(known["drafts"])])
        wanted[canonical_json(known)] = row[name]
    if foreign := [there[text] for text in there if text not in wanted]:
        yield f"{len(foreign):,} rows are not as the lineage has them, such as {foreign[0]}"
    if lacking := [wanted[text] for text in wanted if text not in there]:
        yield f"{len(lacking):,} rows of the lineage are not in it, such as {lacking[0]}"
    if len(found) != len(expected) and not foreign and not lacking:
        yield f"it has {len(found):,} rows and should have {len(expected):,}"
