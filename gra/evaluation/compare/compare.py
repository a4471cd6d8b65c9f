"""Compare evaluated models on the same samples: paired differences, and a verdict only where the data allow one.

An arm is one training set; it has one run per training seed. Its item scores are the mean over its seeds.
The spread between seeds is part of the error of every difference; one seed says something about that checkpoint only.
Holm's adjustment is applied over all arms and tasks compared with the same reference, or each with its unreviewed arm.
It is applied separately over their categories and over the macro-averages.

compare.json:
- suite, decoding, level, margin, baseline, untuned, comparable, differing (how the runs' suites differ), notes
- `arms.ARM`: runs, seeds, overall: {mean, low, high} (with the variance of seeds), `tasks.TASK`, and of an experiment
  data: {of, part ("train" or "unreviewed"), draw ("even", "best" or "seeds"), rows (trained on), wanted, available,
  cost}; of is the arm whose rows it shares; cost is null where it is not known, else
  {unit, generation, review, preparation, total}
- `arms.ARM.tasks.TASK`: kind, metric, n, mean, low, high (Wilson), `seed_means`, stopped, unread, `mean_tokens`,
  `categories.NAME`. `stopped` is the share of answers that the model ended, `unread` the share without an answer.
- pairs: a list of {arm, reference, against ("baseline", "untuned" or "unreviewed": the arm of the same candidates
  without review), prompts_differ, comparable, overall, tasks.TASK};
  overall and each task: {n, difference, low, high, se, p, p_holm, p_inferior, p_unequal, verdict, mde}, a task also
  {wins, losses, ties, prompts_differ, categories.NAME: the same keys}; p_inferior is the one-sided p of "worse by the
  margin or more". p_unequal is the p of "differs by the margin or more"; a small one means equivalent.
- samples: a list of {task, item, category, question, arm, reference, outcome ("win" or "loss"), output,
  reference_output}; flips.parquet has all of them
- contamination, when checks are given: {checks, tasks.TASK: {items, contaminated, suspect}}. Then the figures of arms
  and pairs have a `clean` beside them, over the items that no check calls contaminated.
- published, when asked for: see gra/evaluation/compare/published.py
All scores and differences are shares of 1 (published ones: percent); difference is arm minus reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from gra.config.problems import did_you_mean
from gra.core.errors import Mismatch, RecipeError
from gra.core.files import atomic_path, write_json
from gra.core.hashing import digest
from gra.core.run_folder import RunFolder
from gra.evaluation.compare import clean_subset as clean
from gra.evaluation.compare.disagreements import FLIPS, flips, samples, write_flips
from gra.evaluation.compare.paired import difference, figures, item_scores, own_estimate, proportion
from gra.evaluation.compare.published import beside
from gra.evaluation.compare.runs import ScoredRun, differences, read_run, shared
from gra.evaluation.compare.tables import markdown, table
from gra.evaluation.results import by_category
from gra.stats import paired as stats

_SAMPLES = 3  # wins and losses shown for each task of each pair

# Makes a page of compare.json's content and the flipped items in a folder, and returns the files it wrote there.
Page = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], Path], list[Path]]


@dataclass(frozen=True)
class Comparison:
    """The content of compare.json."""

    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the keys of compare.json; see the top of this module."""
        return self.content

    def to_markdown(self) -> str:
        """Return the tables and their explanation."""
        return markdown(self.content)

    def table(self) -> Table:
        """Return the table for a terminal."""
        return table(self.content)


def compare(
    runs: Mapping[str, Path | Sequence[Path]],
    baseline: str,
    margin: float,
    output: Path,
    *,
    untuned: str | None = "untuned",
    allow_different_suites: bool = False,
    published: bool = False,
    contamination: Sequence[Path] = (),
    page: Page | None = None,
    data: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare every arm with the baseline, the untuned model and its unreviewed arm; write the files named above.

    Args:
        runs: arm name to the folder of its evaluation, or to one folder for each of its training seeds.
        baseline: the arm that the others are compared with.
        margin: the largest loss, as a share of 1, that still counts as non-inferior.
        output: the folder for the files.
        untuned: the arm that was not trained; ignored when there is no such arm.
        allow_different_suites: compare runs of different suites on the items they share, stamped "not comparable".
        published: show the paper's tables beside the scores.
        contamination: what `gra contamination` wrote about the arms' training sets.
        page: writes a page too.
        data: what is known of the rows that each arm was trained on.
        notes: sentences about them, to be shown with the result.

    Raises:
        RecipeError: when there are fewer than two arms, or the baseline is none of them.
        DataError: when a folder holds no finished evaluation or check.
        Mismatch: when the runs are of different suites, naming what differs.
    """
    if len(runs) < 2:
        raise RecipeError("a comparison needs at least two runs")
    if baseline not in runs:
        near = did_you_mean(baseline, list(runs))
        raise RecipeError(f"the baseline `{baseline}` is not one of the runs ({', '.join(runs)}){near}")
    arms = {name: [read_run(p) for p in _list(paths)] for name, paths in runs.items()}
    differing = differences([run for group in arms.values() for run in group])
    if differing and not allow_different_suites:
        raise Mismatch(
            "these runs did not answer the same suite, so they cannot be compared: " + " | ".join(differing)
            + ". Evaluate them with one suite and one set of files"
        )  # fmt: skip
    if differing:
        arms = _on_shared_items(arms)
    seen = clean.read_checks(contamination, arms[baseline][0])
    references = {"baseline": baseline}
    if untuned is not None and untuned in runs and untuned != baseline:
        references["untuned"] = untuned
    pairs = [
        _pair(arms, arm, reference, against)
        for against, reference in references.items()
        for arm in arms
        if arm != reference and not (against == "baseline" and arm == references.get("untuned"))
    ]
    compared = {(pair["arm"], pair["reference"]) for pair in pairs}
    pairs += [_pair(arms, *pair, "unreviewed") for pair in _reviewed(arms, data) if pair not in compared]
    for against in (*references, "unreviewed"):
        _judge([pair for pair in pairs if pair["against"] == against], margin)
    flipped = list(flips(arms, pairs, seen))
    first = arms[baseline][0].results
    content = {
        "suite": first["suite"],
        "decoding": first["decoding"],
        "level": stats.LEVEL,
        "margin": margin,
        "baseline": baseline,
        "untuned": references.get("untuned"),
        "comparable": not differing and all(pair["comparable"] for pair in pairs),
        "differing": differing,
        "notes": [*_notes(arms, pairs, differing), *notes],
        "arms": {name: _arm(group) | _data(data.get(name)) for name, group in arms.items()},
        "pairs": pairs,
        "samples": samples(flipped, _SAMPLES),
    }
    if contamination:
        clean.add(content, arms, seen, contamination)
    if published:
        content["published"] = beside(content)
    comparison = Comparison(content)
    _write(comparison, [run for group in arms.values() for run in group], flipped, output, page)
    return comparison


def _reviewed(arms: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the arms whose candidates an unreviewed arm shares, each with that arm."""
    return [
        (facts["of"], arm)
        for arm in arms
        if (facts := data.get(arm, {})).get("part") == "unreviewed" and facts.get("of") in arms
    ]


def _list(paths: Path | Sequence[Path]) -> Sequence[Path]:
    return [paths] if isinstance(paths, Path) else paths


def _on_shared_items(arms: Mapping[str, Sequence[ScoredRun]]) -> dict[str, list[ScoredRun]]:
    cut = iter(shared([run for group in arms.values() for run in group]))
    return {name: [next(cut) for _ in group] for name, group in arms.items()}


def _write(
    comparison: Comparison,
    runs: Iterable[ScoredRun],
    flipped: Sequence[Mapping[str, Any]],
    output: Path,
    page: Page | None,
) -> None:
    folder = RunFolder(output).create()
    write_json(folder / "compare.json", comparison.to_json())
    with atomic_path(folder / "compare.md") as temporary:
        temporary.write_text(comparison.to_markdown(), encoding="utf-8")
    files = [folder / "compare.json", folder / "compare.md", write_flips(folder / FLIPS, flipped)]
    if page is not None:
        files += page(comparison.to_json(), flipped, output)
    inputs = {str(run.path): run.results["fingerprint"] for run in runs}
    section = {"fingerprint": digest([inputs, comparison.to_json()]), "inputs": inputs}
    folder.record("comparison", section, files)


def _arm(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    tasks = {task: _arm_task(runs, task) for task in runs[0].tasks}
    low, high = stats.macro_average([own_estimate(runs, task) for task in tasks]).interval()
    overall = {"mean": sum(task["mean"] for task in tasks.values()) / len(tasks), "low": max(0.0, low), "high": high}
    return {"runs": [str(run.path) for run in runs], "seeds": len(runs), "overall": overall, "tasks": tasks}


def _data(known: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if known is None else {"data": dict(known)}


def _arm_task(runs: Sequence[ScoredRun], task: str) -> dict[str, Any]:
    rows = runs[0].tasks[task]
    figures = runs[0].results["tasks"][task]
    groups = by_category(rows.values())
    categories = {} if len(groups) == 1 else groups
    return {
        "kind": figures["kind"],
        "metric": figures["metric"],
        **proportion(item_scores(runs, task, list(rows))),
        "seed_means": [float(mean) for mean in item_scores(runs, task, list(rows)).mean(axis=1)],
        "stopped": _mean(run.results["tasks"][task]["stopped"] for run in runs),
        "unread": _mean(run.results["tasks"][task].get("unread") for run in runs),
        "mean_tokens": _mean(run.results["tasks"][task]["mean_tokens"] for run in runs),
        "categories": {
            name: proportion(item_scores(runs, task, [row["item"] for row in group]))
            for name, group in categories.items()
        },
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _pair(arms: Mapping[str, Sequence[ScoredRun]], arm: str, reference: str, against: str) -> dict[str, Any]:
    """Compute the differences of one arm to one reference; `_judge` adds verdicts and drops `_estimate`."""
    ours, theirs = arms[arm], arms[reference]
    tasks: dict[str, Any] = {}
    for task, rows in ours[0].tasks.items():
        tasks[task] = difference(ours, theirs, task, list(rows))
        others = theirs[0].tasks[task]
        tasks[task]["prompts_differ"] = sum(rows[i]["prompt_hash"] != others[i]["prompt_hash"] for i in rows)
        groups = by_category(rows.values())
        tasks[task]["categories"] = {
            name: difference(ours, theirs, task, [row["item"] for row in group])
            for name, group in (groups.items() if len(groups) > 1 else ())
        }
    average = stats.macro_average([part["_estimate"] for part in tasks.values()])
    overall = {"n": len(tasks), **figures(average), "p": average.p_value()}
    differ = sum(part["prompts_differ"] for part in tasks.values())
    return {
        "arm": arm, "reference": reference, "against": against,
        "prompts_differ": differ, "comparable": not differ, "overall": overall, "tasks": tasks,
    }  # fmt: skip


def _judge(pairs: Sequence[dict[str, Any]], margin: float) -> None:
    """Adjust p and give verdicts, in place, over all comparisons with one reference."""
    tasks = [task for pair in pairs for task in pair["tasks"].values()]
    families = [[pair["overall"] for pair in pairs], tasks, [c for task in tasks for c in task["categories"].values()]]
    for family in families:
        for entry, adjusted in zip(family, stats.holm([entry["p"] for entry in family]), strict=True):
            entry["p_holm"] = adjusted
            estimate = entry.pop("_estimate")
            entry["p_inferior"], entry["p_unequal"] = estimate.p_inferior(margin), estimate.p_unequal(margin)
            entry["verdict"] = stats.conclude(entry["low"], entry["high"], adjusted, margin)


def _notes(
    arms: Mapping[str, Sequence[ScoredRun]], pairs: Sequence[Mapping[str, Any]], differing: Sequence[str]
) -> list[str]:
    notes = [f"NOT COMPARABLE: {what}; only items that all runs have are shown." for what in differing]
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
