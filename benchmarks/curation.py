"""Measure `gra curate`: do learning dynamics find the answers that belong to other questions?

Run as: python benchmarks/curation.py --out FOLDER [--seeds-dir DATA/seeds] [--rows 320] [--seeds 2] [--steps 20]

Good rows are the quickstart's seeds and, with `--seeds-dir`, short tasks of Self-Instruct and word problems of GSM8K.
Each domain is divided. A quarter trains the student of recipes/systems/curation, which holds half of it out. Five
eighths are judged; one half of them gets the answers of each other. One eighth is held out of everything. `gra curate`
judges the mixed rows by the student's checkpoints.

Prints two tables. The first has the AUC of good over bad rows, with bootstrap intervals and paired differences: the
confidence, the rule of both figures, the first checkpoint and the last one. Below it are precision and recall of the
rule. Beside it is a filter that drops as many rows by the last checkpoint alone.

The second has students of the kept rows, of as many at random, of all, and of the good ones. All take equal steps. It
gives held-out nats a token of good answers; intervals hold the variance between training seeds. What is done is not
done again in the same folder. Writes FOLDER/curation.json.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from fusion import answer_nats
from numpy.typing import NDArray

from gra.config.synthesis import DOMAINS
from gra.core.files import make_folder, write_json
from gra.core.progress import View
from gra.core.run_folder import RunFolder, environment
from gra.core.types import Seed
from gra.data.export import TRAIN_SCHEMA
from gra.data.seeds.load import load_seeds
from gra.stats.paired import paired_difference
from gra.stats.reliability import auc
from gra.stats.seeds import with_seed_variance

ROOT = Path(__file__).parents[1]
SEEDS = ROOT / "recipes" / "seeds" / "quickstart.jsonl"
JUDGE = ROOT / "recipes" / "systems" / "curation" / "sft" / "student.yaml"
STUDENT = ROOT / "recipes" / "smollm2-135m" / "sft" / "config_lora.yaml"
LONGEST = 600  # characters of a row, so that a training step is short
# What the rows of a domain serve for, in turn; the order keeps small domains balanced.
PARTS = ("trusted", "good", "bad", "good", "bad", "heldout", "trusted", "good", "bad", "good", "trusted", "good",
         "bad", "bad", "heldout", "trusted")  # fmt: skip
_DRAWS = 1000


@dataclass(frozen=True)
class Division:
    """Rows by what they serve for; the rows of `bad` have answers of each other."""

    trusted: list[Seed]
    good: list[Seed]
    bad: list[Seed]
    heldout: list[Seed]


def open_seeds(folder: Path) -> Iterator[Seed]:
    """Yield the tasks of Self-Instruct, then word problems of GSM8K, in files of their publishers."""
    for line in (folder / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        first, domain = task["instances"][0], "labels" if task["is_classification"] else "tasks"
        instruction = f"{task['instruction']}\n{first['input']}".strip()
        yield Seed(task["id"], domain, instruction, first["output"].strip())
    with gzip.open(folder / "gsm8k_train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            yield Seed(f"gsm8k-{number}", "word problems", row["question"], row["answer"])


def collect(seeds_dir: Path | None, count: int) -> list[Seed]:
    """Return short rows, at most `count`, the project's own first."""
    own = load_seeds(SEEDS, list(DOMAINS)).rows
    rows = [*own, *(open_seeds(seeds_dir) if seeds_dir is not None else ())]
    return [row for row in rows if row.response and len(row.instruction + row.response) <= LONGEST][:count]


def divide(rows: Sequence[Seed]) -> Division:
    """Divide the rows of each domain, and give the bad ones answers of other questions of their domain."""
    parts: dict[str, list[Seed]] = {"trusted": [], "good": [], "bad": [], "heldout": []}
    for domain in dict.fromkeys(row.domain for row in rows):
        inside = [row for row in rows if row.domain == domain]
        random.Random(domain).shuffle(inside)
        dealt = list(zip(inside, cycle(PARTS), strict=False))
        for part in ("trusted", "good", "heldout"):
            parts[part] += [row for row, its in dealt if its == part]
        wrong = [row for row, its in dealt if its == "bad"]
        for place, row in enumerate(wrong):
            others = (*wrong[place + 1 :], *wrong[:place])
            answer = next((other.response for other in others if other.response != row.response), None)
            if answer is not None:
                parts["bad"].append(Seed(row.id, domain, row.instruction, answer))
    return Division(**parts)


def as_row(seed: Seed) -> dict[str, Any]:
    """Return a seed as a training row."""
    return {
        "prompt": [{"role": "user", "content": seed.instruction}],
        "completion": [{"role": "assistant", "content": seed.response}],
        "id": seed.id, "domain": seed.domain, "score": 8.0, "round": 1,
    }  # fmt: skip


def write_rows(file: Path, seeds: Sequence[Seed]) -> Path:
    """Write training rows, unless the same ones are there."""
    make_folder(file.parent)
    table = pa.Table.from_pylist([as_row(seed) for seed in seeds], schema=TRAIN_SCHEMA)
    if not file.is_file() or pq.read_table(file) != table:
        pq.write_table(table, file)
    return file


def train_student(recipe: Path, rows: Path, output: Path, overrides: Sequence[str]) -> Path:
    """Train a student of a file's rows with the project's trainer, unless it is trained; return its folder."""
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.run import train

    fixed = [f"data.train=[{{path: {rows.resolve()}}}]", "stop_rate.prompts=0", "tracking.wandb=off"]
    train(load_train_recipe(recipe, [*fixed, *overrides]), output)
    return output


def detection(figures: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], bad: set[str]) -> dict[str, Any]:
    """Return how well the figures of a curation separate good rows from bad ones.

    Args:
        figures: rows of figures.parquet.
        facts: the manifest's facts of the curation, with both thresholds.
        bad: ids of the bad rows.
    """
    known = [row for row in figures if row["confidence"] is not None]
    good = np.array([row["id"] not in bad for row in known], bool)
    p = np.array([row["probabilities"] for row in known])
    confidence = np.array([row["confidence"] for row in known])
    uncertainty = np.array([row["uncertainty"] for row in known])
    over = (
        (confidence - facts["confidence"]) / confidence.std(),
        (uncertainty - facts["uncertainty"]) / uncertainty.std(),
    )
    scores = {
        "last checkpoint alone": p[:, -1],
        "confidence": confidence,
        # A row is dropped where this is 0 or less: both figures are at or below their thresholds.
        "confidence and uncertainty, by the rule": np.maximum(*over),
        "first checkpoint alone": p[:, 0],
    }
    luck = np.random.default_rng(0)
    one, other = np.flatnonzero(good), np.flatnonzero(~good)
    draws = [(luck.choice(one, one.size), luck.choice(other, other.size)) for _ in range(_DRAWS)]
    drawn = {name: np.array([auc(each[g], each[b]) for g, b in draws]) for name, each in scores.items()}
    whole = {name: auc(each[good], each[~good]) for name, each in scores.items()}
    last = "last checkpoint alone"
    ways = {
        name: {
            "auc": whole[name], "interval": np.percentile(drawn[name], [2.5, 97.5]).tolist(),
            "over_last": [whole[name] - whole[last], *np.percentile(drawn[name] - drawn[last], [2.5, 97.5]).tolist()],
        }
        for name in scores
    }  # fmt: skip
    dropped = np.array([not row["kept"] for row in known], bool)
    lowest = np.zeros(len(known), bool)
    lowest[np.argsort(p[:, -1], kind="stable")[: dropped.sum()]] = True
    gain = paired_difference(dropped[~good].astype(float), lowest[~good].astype(float), bounded=True)
    return {
        "rows": {"good": int(good.sum()), "bad": int((~good).sum()), "unscored": len(figures) - len(known)},
        "ways": ways,
        "rule": _drops(dropped, good),
        "last, as many dropped": _drops(lowest, good),
        "recall_over_last": [gain.value, *gain.interval()],
    }


def _drops(dropped: NDArray[np.bool_], good: NDArray[np.bool_]) -> dict[str, float | None]:
    hits, count = int((dropped & ~good).sum()), int(dropped.sum())
    return {"dropped": count, "precision": hits / count if count else None, "recall": hits / int((~good).sum())}


def print_detection(found: Mapping[str, Any]) -> None:
    """Print how well each figure finds the bad rows."""
    print(f"{found['rows']['good']} good and {found['rows']['bad']} bad rows")
    print("| figure | AUC (95 %) | less the last checkpoint's (95 %) |\n|---|---|---|")
    for name, way in found["ways"].items():
        low, high = way["interval"]
        gain = "" if name.startswith("last") else _shown(way["over_last"])
        print(f"| {name} | {way['auc']:.3f} [{low:.3f}, {high:.3f}] | {gain} |")
    for name in ("rule", "last, as many dropped"):
        drops = found[name]
        precision = "none" if drops["precision"] is None else f"{drops['precision']:.2f}"
        print(f"{name}: {drops['dropped']} dropped, precision {precision}, recall {drops['recall']:.2f}")
    print(f"recall of the rule less that of the last checkpoint: {_shown(found['recall_over_last'])}")


def student_table(scores: Mapping[str, NDArray[np.float64]], untrained: float) -> list[dict[str, Any]]:
    """Print held-out nats a token of each arm, and what the kept rows gain over the others.

    Args:
        scores: by arm, seeds x held-out rows; the first arm is that of the kept rows.
        untrained: nats a token before training.
    """
    first, lines = next(iter(scores)), []
    print("| student of | held-out nats a token | kept rows' less it (95 %) |\n|---|---|---|")
    print(f"| no rows | {untrained:.4f} | |")
    for name, arm in scores.items():
        line: dict[str, Any] = {"arm": name, "nats": float(arm.mean())}
        if name != first:
            items = paired_difference(scores[first].mean(axis=0), arm.mean(axis=0))
            estimate = with_seed_variance(items, scores[first], arm)
            line["difference"] = [estimate.value, *estimate.interval()]
        lines.append(line)
        print(f"| {name} | {line['nats']:.4f} | {_shown(line['difference']) if 'difference' in line else ''} |")
    return lines


def _shown(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.4f} [{gain[1]:+.4f}, {gain[2]:+.4f}]"


def main(
    out: Annotated[Path, typer.Option()] = Path("curation"),
    seeds_dir: Annotated[Path | None, typer.Option(help="a folder with Self-Instruct's and GSM8K's files")] = None,
    rows: Annotated[int, typer.Option(help="at most")] = 320,
    seeds: Annotated[int, typer.Option(help="training seeds of each student; 0 leaves the second table out")] = 2,
    steps: Annotated[int, typer.Option(help="of each student of the second table")] = 20,
    model: Annotated[str | None, typer.Option(help="in place of the recipes' SmolLM2-135M")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="of both training recipes")] = None,
) -> None:
    """Make the mixed rows, curate them, and print the tables."""
    from gra.training.curation.curate import SECTION, curate
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.plan import make_plan

    begun = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    changes = [*([f"model.name={model}"] if model else []), *(overrides or [])]
    parts = divide(collect(seeds_dir, rows))
    trusted, heldout = (write_rows(out / f"{name}.parquet", getattr(parts, name)) for name in ("trusted", "heldout"))
    good = write_rows(out / "good.parquet", parts.good)
    mixed = sorted([*parts.good, *parts.bad], key=lambda row: row.id)
    dataset = write_rows(out / "run" / "dataset" / "train.parquet", mixed)
    RunFolder(out / "run").record("synthesis", {"states": {"accepted": len(mixed)}}, [dataset])
    judge = train_student(JUDGE, trusted, out / "judge", changes)
    curate(out / "run", [judge], out / "curated", view=View(out / "log.jsonl"))
    facts = RunFolder(out / "curated").manifest()[SECTION]
    figures = pq.read_table(out / "curated" / "figures.parquet").to_pylist()
    found = detection(figures, facts, {row.id for row in parts.bad})
    print_detection(found)
    content: dict[str, Any] = {"detection": found, "curation": facts}
    if seeds:
        fixed = [*changes, f"data.train=[{{path: {heldout.resolve()}}}]", "data.holdout.fraction=0"]
        measuring = make_plan(load_train_recipe(STUDENT, fixed))
        arms = {"kept rows": out / "curated" / "dataset" / "train.parquet",
                "as many at random": out / "curated" / "dataset" / "random.parquet",
                "all rows": dataset, "good rows alone": good}  # fmt: skip
        scores: dict[str, list[list[float]]] = {arm: [] for arm in arms}
        for seed in range(seeds):
            for place, (arm, file) in enumerate(arms.items()):
                fixed = [*changes, f"train.seed={seed}", f"train.max_steps={steps}", "data.holdout.fraction=0"]
                student = train_student(STUDENT, file, out / f"student-{place}-{seed}", fixed)
                scores[arm].append([n / t for n, t in answer_nats(measuring, measuring.train, student)])
        untrained = float(np.mean([n / t for n, t in answer_nats(measuring, measuring.train, None)]))
        print(f"{len(measuring.train)} held-out rows, {steps} steps, {seeds} seeds")
        content["students"] = student_table({arm: np.array(each) for arm, each in scores.items()}, untrained)
        content |= {"scores": scores, "untrained": untrained}
    seconds = round(time.monotonic() - begun, 1)
    print(f"{seconds:.0f} s")
    write_json(out / "curation.json", content | {"seconds": seconds, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
