"""Compare on clean items: items that no training set was found to contain (`gra contamination`).

An item that any check calls contaminated is left out for every arm. So all arms are scored on the same items.
Clean figures have intervals but no verdicts: a verdict is about the whole suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gra.core.errors import Mismatch
from gra.data.contamination.report import read_items_found
from gra.evaluation.compare.paired import difference, figures, item_scores, proportion
from gra.evaluation.compare.runs import ScoredRun
from gra.stats import paired as stats

Seen = Mapping[tuple[str, str], str]
_WORST = ("clean", "suspect", "contaminated")


def read_checks(folders: Sequence[Path], run: ScoredRun) -> dict[tuple[str, str], str]:
    """Return the worst verdict of any check for every item of the run, by (task, item).

    Raises:
        DataError: when a folder holds no finished check.
        Mismatch: when a check did not look for some item of the run.
    """
    asked = [(task, item) for task, rows in run.tasks.items() for item in rows]
    seen: dict[tuple[str, str], str] = {}
    for folder in folders:
        found = read_items_found(folder)
        missing = [key for key in asked if key not in found]
        if missing:
            raise Mismatch(
                f"the check in {folder} was made against another suite: {len(missing)} of {len(asked)} items were not "
                f"looked for, such as {missing[0][1]} of {missing[0][0]}; run `gra contamination` with the suite "
                "that was evaluated"
            )
        for key in asked:
            seen[key] = max(seen.get(key, "clean"), found[key], key=_WORST.index)
    return seen


def add(content: dict[str, Any], arms: Mapping[str, Sequence[ScoredRun]], seen: Seen, folders: Sequence[Path]) -> None:
    """Put `contamination` and the `clean` figures of every arm and pair into compare.json's content."""
    tasks: dict[str, Any] = {}
    clean: dict[str, list[str]] = {}
    for task, rows in arms[content["baseline"]][0].tasks.items():
        verdicts = [seen[task, item] for item in rows]
        clean[task] = [item for item in rows if seen[task, item] != "contaminated"]
        tasks[task] = {"items": len(rows), **{word: verdicts.count(word) for word in _WORST[:0:-1]}}
    content["contamination"] = {"checks": [str(folder) for folder in folders], "tasks": tasks}
    kept = {task: items for task, items in clean.items() if items}
    for name, runs in arms.items():
        summary = content["arms"][name]
        for task, items in kept.items():
            summary["tasks"][task]["clean"] = proportion(item_scores(runs, task, items))
        means = [summary["tasks"][task]["clean"]["mean"] for task in kept]
        summary["overall"]["clean"] = {"mean": sum(means) / len(means)} if means else None
    for pair in content["pairs"]:
        estimates = []
        for task, items in kept.items():
            found = difference(arms[pair["arm"]], arms[pair["reference"]], task, items)
            estimates.append(found.pop("_estimate"))
            pair["tasks"][task]["clean"] = found
        if estimates:
            average = figures(stats.macro_average(estimates))
            pair["overall"]["clean"] = {"n": len(estimates), **{k: v for k, v in average.items() if k != "_estimate"}}
