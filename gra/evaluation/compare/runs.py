"""Read finished evaluations for a comparison, and find out whether they answered the same suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra.core.errors import Mismatch
from gra.core.files import refuse_special_files
from gra.core.run_folder import RunFolder
from gra.evaluation.results import read_records, read_results

Rows = dict[str, Mapping[str, Any]]  # by item id


@dataclass(frozen=True)
class ScoredRun:
    """One finished evaluation: its figures, and its rows by task and item."""

    path: Path
    results: dict[str, Any]
    tasks: dict[str, Rows]


def read_run(path: Path) -> ScoredRun:
    """Read a run and verify its files.

    Raises:
        DataError: when there is none.
        Mismatch: when its files were changed.
    """
    refuse_special_files(path)
    results = read_results(path)
    RunFolder(path).verify()
    tasks: dict[str, Rows] = {}
    for row in read_records(path):
        tasks.setdefault(row["task"], {})[row["item"]] = row
    return ScoredRun(path, results, tasks)


def differences(runs: Sequence[ScoredRun]) -> list[str]:
    """Return how the suites of the other runs differ from the first one, in words; empty when all are the same."""
    first, found = runs[0], []
    for other in runs[1:]:
        if differing := _differing(first, other):
            found.append(f"{first.path} and {other.path} differ in {'; '.join(differing)}")
    return found


def shared(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Return the runs with the tasks and items only that all of them have, in the order of the first.

    Raises:
        Mismatch: when there is no such item.
    """
    items = {
        task: [item for item in rows if all(item in run.tasks.get(task, {}) for run in runs)]
        for task, rows in runs[0].tasks.items()
    }
    if not any(items.values()):
        raise Mismatch("these runs have no item in common, so there is nothing to compare")
    return [
        replace(run, tasks={task: {i: run.tasks[task][i] for i in own} for task, own in items.items() if own})
        for run in runs
    ]


def _differing(one: ScoredRun, two: ScoredRun) -> list[str]:
    found = []
    settings = (one.results["decoding"], two.results["decoding"])
    for key in sorted({*settings[0], *settings[1]}):
        values = [side.get(key) for side in settings]
        if values[0] != values[1]:
            found.append(f"decoding.{key} ({values[0]} and {values[1]})")
    judges = [run.results.get("ifeval_verifier") for run in (one, two)]
    if judges[0] != judges[1]:
        found.append(f"whose program judges IFEval ({judges[0]} and {judges[1]})")
    if set(one.tasks) != set(two.tasks):
        return [*found, f"the tasks ({', '.join(one.tasks)} and {', '.join(two.tasks)})"]
    for task, rows in one.tasks.items():
        others = two.tasks[task]
        unmatched = set(rows) ^ set(others)
        if unmatched:
            found.append(f"the items of {task} ({len(unmatched)} are in one run only, such as {min(unmatched)})")
            continue
        for key, what in (("item_hash", "wording"), ("target_hash", "targets")):
            changed = [item for item in rows if rows[item][key] != others[item][key]]
            if changed:
                found.append(f"the {what} of {len(changed)} items of {task}, such as {changed[0]}")
    digests = (one.results["suite"]["digest"], two.results["suite"]["digest"])
    if not found and digests[0] != digests[1]:
        found.append("the suite (suite.digest: how items are put to the model, or the metric)")
    return found
