"""Two or more evaluated models on the same items: paired differences, and a verdict only where the data allow one.

An arm is one training set; it has one run per training seed. Its item scores are the mean over its seeds, and
the spread between seeds is added to the error of every difference (with one seed the claim is about that
checkpoint only). Holm's adjustment is applied over all arms and tasks compared with the same reference, and
separately over their categories and over the macro-averages.

compare.json:
- suite, decoding, level, margin, baseline, untuned, comparable, notes
- arms.ARM: runs, seeds, overall.mean, tasks.TASK: {kind, metric, n, mean, low, high (Wilson), seed_means,
  stopped (share of answers that end by themselves), mean_tokens, categories.NAME: {n, mean, low, high}}
- pairs: a list of {arm, reference, against ("baseline" or "untuned"), prompts_differ, comparable, overall, tasks.TASK};
  overall and each task: {n, difference, low, high, se, p, p_holm, verdict, mde}, a task also {wins, losses, ties,
  prompts_differ, categories.NAME: the same keys}
- samples: a list of {task, item, category, question, arm, reference, outcome ("win" or "loss"), output,
  reference_output}
All scores and differences are shares of 1; difference is arm minus reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from gra.core.errors import Mismatch, RecipeError
from gra.core.manifest import RunFolder, atomic_path, digest, write_json
from gra.core.recipe import did_you_mean
from gra.evaluation import stats
from gra.evaluation.records import by_category, read_records, read_results
from gra.evaluation.stats import Estimate
from gra.evaluation.tables import markdown, table

_SAMPLES = 3  # wins and losses shown for each task of each pair
Rows = dict[str, Mapping[str, Any]]  # by item id


@dataclass(frozen=True)
class Comparison:
    """What was found, as compare.json holds it."""

    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The keys of compare.json; see the top of this module."""
        return self.content

    def to_markdown(self) -> str:
        """The tables and their explanation."""
        return markdown(self.content)

    def table(self) -> Table:
        """For a terminal."""
        return table(self.content)


@dataclass(frozen=True)
class _Run:
    """One finished evaluation: its figures, and its rows by task and item."""

    path: Path
    results: dict[str, Any]
    tasks: dict[str, Rows]


def compare(
    runs: Mapping[str, Path | Sequence[Path]],
    baseline: str,
    margin: float,
    output: Path,
    *,
    untuned: str | None = "untuned",
) -> Comparison:
    """Compare every arm with the baseline and with the untuned model, and write compare.json and compare.md.

    Args:
        runs: arm name to the folder of its evaluation, or to one folder for each of its training seeds.
        baseline: the arm that the others are compared with.
        margin: the largest loss, as a share of 1, that still counts as non-inferior.
        output: where the files go.
        untuned: the arm that was not trained; ignored when there is no such arm.

    Raises:
        RecipeError: when there are fewer than two arms, or the baseline is none of them.
        DataError: when a folder holds no finished evaluation.
        Mismatch: when the runs are not the same exam, naming what differs.
    """
    if len(runs) < 2:
        raise RecipeError("a comparison needs at least two runs")
    if baseline not in runs:
        near = did_you_mean(baseline, list(runs))
        raise RecipeError(f"the baseline `{baseline}` is not one of the runs ({', '.join(runs)}){near}")
    arms = {name: [_read(p) for p in ([paths] if isinstance(paths, Path) else paths)] for name, paths in runs.items()}
    _check_same_exam([run for group in arms.values() for run in group])
    references = {"baseline": baseline}
    if untuned is not None and untuned in runs and untuned != baseline:
        references["untuned"] = untuned
    pairs = [
        _pair(arms, arm, reference, against)
        for against, reference in references.items()
        for arm in arms
        if arm != reference and not (against == "baseline" and arm == references.get("untuned"))
    ]
    for against in references:
        _judge([pair for pair in pairs if pair["against"] == against], margin)
    first = arms[baseline][0].results
    content = {
        "suite": first["suite"],
        "decoding": first["decoding"],
        "level": stats.LEVEL,
        "margin": margin,
        "baseline": baseline,
        "untuned": references.get("untuned"),
        "comparable": all(pair["comparable"] for pair in pairs),
        "notes": _notes(arms, pairs),
        "arms": {name: _arm(group) for name, group in arms.items()},
        "pairs": pairs,
        "samples": [s for pair in pairs if pair["against"] == "baseline" for s in _samples(arms, pair)],
    }
    comparison = Comparison(content)
    _write(comparison, [run for group in arms.values() for run in group], output)
    return comparison


def _write(comparison: Comparison, runs: Iterable[_Run], output: Path) -> None:
    folder = RunFolder(output).create()
    write_json(folder / "compare.json", comparison.to_json())
    with atomic_path(folder / "compare.md") as temporary:
        temporary.write_text(comparison.to_markdown(), encoding="utf-8")
    inputs = {str(run.path): run.results["fingerprint"] for run in runs}
    section = {"fingerprint": digest([inputs, comparison.to_json()]), "inputs": inputs}
    folder.record("comparison", section, [folder / "compare.json", folder / "compare.md"])


def _read(path: Path) -> _Run:
    results = read_results(path)
    RunFolder(path).verify()
    tasks: dict[str, Rows] = {}
    for row in read_records(path):
        tasks.setdefault(row["task"], {})[row["item"]] = row
    return _Run(path, results, tasks)


def _check_same_exam(runs: Sequence[_Run]) -> None:
    first = runs[0]
    problems = []
    for other in runs[1:]:
        differing = _differences(first, other)
        if differing:
            problems.append(f"{first.path} and {other.path} differ in {'; '.join(differing)}")
    if problems:
        raise Mismatch(
            "these runs are not the same exam, so they cannot be compared: " + " | ".join(problems)
            + ". Evaluate them with one suite and one set of files"
        )  # fmt: skip


def _differences(one: _Run, two: _Run) -> list[str]:
    """What keeps two runs from being compared, in words; empty when nothing does."""
    found = []
    settings = (one.results["decoding"], two.results["decoding"])
    for key in sorted({*settings[0], *settings[1]}):
        values = [side.get(key) for side in settings]
        if values[0] != values[1]:
            found.append(f"decoding.{key} ({values[0]} and {values[1]})")
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


def _scores(runs: Sequence[_Run], task: str, items: Sequence[str]) -> NDArray[np.float64]:
    """Item scores, shape [seeds, items]."""
    return np.array([[run.tasks[task][item]["score"] for item in items] for run in runs], dtype=np.float64)


def _arm(runs: Sequence[_Run]) -> dict[str, Any]:
    tasks = {task: _arm_task(runs, task) for task in runs[0].tasks}
    overall = {"mean": sum(task["mean"] for task in tasks.values()) / len(tasks)}
    return {"runs": [str(run.path) for run in runs], "seeds": len(runs), "overall": overall, "tasks": tasks}


def _arm_task(runs: Sequence[_Run], task: str) -> dict[str, Any]:
    rows = runs[0].tasks[task]
    figures = runs[0].results["tasks"][task]
    groups = by_category(rows.values())
    categories = {} if len(groups) == 1 else groups
    return {
        "kind": figures["kind"],
        "metric": figures["metric"],
        **_proportion(_scores(runs, task, list(rows))),
        "seed_means": [float(mean) for mean in _scores(runs, task, list(rows)).mean(axis=1)],
        "stopped": _mean(run.results["tasks"][task]["stopped"] for run in runs),
        "mean_tokens": _mean(run.results["tasks"][task]["mean_tokens"] for run in runs),
        "categories": {
            name: _proportion(_scores(runs, task, [row["item"] for row in group])) for name, group in categories.items()
        },
    }


def _proportion(scores: NDArray[np.float64]) -> dict[str, Any]:
    mean = float(scores.mean())
    low, high = stats.wilson(mean, scores.shape[1])
    return {"n": scores.shape[1], "mean": mean, "low": low, "high": high}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _pair(arms: Mapping[str, Sequence[_Run]], arm: str, reference: str, against: str) -> dict[str, Any]:
    """Differences of one arm to one reference, without verdicts; `_estimate` is dropped when they are judged."""
    ours, theirs = arms[arm], arms[reference]
    tasks: dict[str, Any] = {}
    for task, rows in ours[0].tasks.items():
        tasks[task] = _difference(ours, theirs, task, list(rows))
        others = theirs[0].tasks[task]
        tasks[task]["prompts_differ"] = sum(rows[i]["prompt_hash"] != others[i]["prompt_hash"] for i in rows)
        groups = by_category(rows.values())
        tasks[task]["categories"] = {
            name: _difference(ours, theirs, task, [row["item"] for row in group])
            for name, group in (groups.items() if len(groups) > 1 else ())
        }
    average = stats.macro_average([part["_estimate"] for part in tasks.values()])
    overall = {"n": len(tasks), **_figures(average), "p": average.p_value()}
    differ = sum(part["prompts_differ"] for part in tasks.values())
    return {
        "arm": arm, "reference": reference, "against": against,
        "prompts_differ": differ, "comparable": not differ, "overall": overall, "tasks": tasks,
    }  # fmt: skip


def _difference(ours: Sequence[_Run], theirs: Sequence[_Run], task: str, items: Sequence[str]) -> dict[str, Any]:
    a, b = _scores(ours, task, items), _scores(theirs, task, items)
    estimate = stats.paired_difference(a.mean(axis=0), b.mean(axis=0), bounded=True)
    estimate = stats.with_seed_variance(estimate, a.mean(axis=1).tolist(), b.mean(axis=1).tolist())
    gap = a.mean(axis=0) - b.mean(axis=0)
    wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
    # One checkpoint each and scores of 0 or 1: the exact test. Averages over seeds: the t test.
    p = stats.mcnemar(wins, losses) if len(a) == len(b) == 1 else estimate.p_value()
    counts = {"wins": wins, "losses": losses, "ties": len(items) - wins - losses}
    return {"n": len(items), **_figures(estimate), "p": p, **counts}


def _figures(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.interval()
    return {
        "difference": estimate.value, "low": low, "high": high, "se": estimate.se,
        "mde": estimate.detectable(), "_estimate": estimate,
    }  # fmt: skip


def _judge(pairs: Sequence[dict[str, Any]], margin: float) -> None:
    """Adjust p and give verdicts, in place, over all comparisons with one reference."""
    tasks = [task for pair in pairs for task in pair["tasks"].values()]
    families = [[pair["overall"] for pair in pairs], tasks, [c for task in tasks for c in task["categories"].values()]]
    for family in families:
        for entry, adjusted in zip(family, stats.holm([entry["p"] for entry in family]), strict=True):
            entry["p_holm"] = adjusted
            entry["verdict"] = stats.verdict(entry["low"], entry["high"], adjusted, margin)
            del entry["_estimate"]


def _notes(arms: Mapping[str, Sequence[_Run]], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    single = [name for name, runs in arms.items() if len(runs) == 1 and name != "untuned"]
    if single:
        notes.append(
            f"One training seed for {', '.join(single)}: what is said holds for these checkpoints; how much another "
            "training seed would change them was not measured."
        )
    for pair in pairs:
        if not pair["comparable"]:
            notes.append(
                f"NOT COMPARABLE: {pair['arm']} and {pair['reference']} were asked {pair['prompts_differ']} prompts "
                "that differ after the chat template; pass both the same --chat-template."
            )
    return notes


def _samples(arms: Mapping[str, Sequence[_Run]], pair: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A few items that the arm wins and loses, with both answers of the first seed."""
    ours, theirs = arms[pair["arm"]][0], arms[pair["reference"]][0]
    found: list[dict[str, Any]] = []
    for task, rows in ours.tasks.items():
        for outcome, sign in (("win", 1), ("loss", -1)):
            decided = [i for i in sorted(rows) if sign * (rows[i]["score"] - theirs.tasks[task][i]["score"]) > 0]
            for item in [i for i in decided if rows[i]["output"] is not None][:_SAMPLES]:
                row = rows[item]
                about = {key: row[key] for key in ("item", "category", "question")}
                outputs = {"output": row["output"], "reference_output": theirs.tasks[task][item]["output"]}
                sides = {"arm": pair["arm"], "reference": pair["reference"], "outcome": outcome}
                found.append({"task": task, **about, **sides, **outputs})
    return found
