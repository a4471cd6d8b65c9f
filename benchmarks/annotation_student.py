"""Measure students that are trained on labels of the arm `annotate`: entity F1 on texts of other templates and names.

Run as: python benchmarks/annotation_student.py --out FOLDER [--steps 15] [--seeds 1] [--ways none,random,nearest]

FOLDER is what `annotation.py` wrote. SmolLM2-135M is trained on the texts that were labeled there. It gets the
committee's labels by each kind of examples, or gold labels. Rows and steps are equal. Every student labels the texts of
FOLDER/test.jsonl, whose templates and names are in no row and in no example. An answer that is not JSON of the form has
no labels, and is counted. Differences are paired by text, with 95 % bootstrap intervals over texts. What is done is not
done again. Writes FOLDER/annotation_student.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from annotation import ROOT, WAYS, as_row, make_texts
from curation import train_student
from self_guide import answers

from gra.config.loader import load_recipe
from gra.config.suite import GenerationConfig, SuiteConfig, TaskConfig
from gra.config.synthesis import AnnotateConfig, SynthesisRecipe
from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.core.text.spans import LabelSpan
from gra.models.catalog import resolve
from gra.stats.annotation import f1_gain, micro_f1
from gra.synthesis.annotation.annotator import ask_text, read_labels

STUDENT = ROOT / "recipes" / "smollm2-135m" / "sft" / "config_lora.yaml"
RECIPE = ROOT / "recipes" / "systems" / "annotate.yaml"
# The labels of each text by all students of an arm, with the student's training seed.
Labels = list[set[tuple[int, LabelSpan]]]


def write_suite(texts: Sequence[dict[str, str]], config: AnnotateConfig, out: Path) -> SuiteConfig:
    """Write the texts as a suite; its own check, equality with the gold labels, is stricter than F1."""
    rows = [
        {
            "id": row["id"],
            "instruction": ask_text(row["instruction"], (), config),
            "checks": [{"kind": "regex", "pattern": re.escape(row["response"])}],
        }
        for row in texts
    ]
    file = out / "test-suite.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TaskConfig(name="names", kind="instructions", data=str(file.resolve()))
    return SuiteConfig(name="annotation", tasks=[task], generation=GenerationConfig(max_new_tokens=160), batch_size=36)


def labels_of(text: str, answer: str, config: AnnotateConfig) -> tuple[LabelSpan, ...] | None:
    """Return the labels of an answer; None where it does not have the form."""
    try:
        return read_labels(text, answer, config)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def write_rows_of(out: Path, config: AnnotateConfig, found: Sequence[Path]) -> dict[str, Path]:
    """Write the texts that every committee labeled: with each one's labels, and with gold labels."""
    tables = {file.parent.parent.name: pq.read_table(file).to_pylist() for file in found}
    shared = set.intersection(*({row["id"] for row in rows} for rows in tables.values()))
    texts = make_texts("texts", 1 + max(int(name.rpartition("-")[2]) for name in shared))
    gold = []
    for name in sorted(shared):
        row = as_row(name, *texts[int(name.rpartition("-")[2])])
        request = ask_text(row["instruction"], (), config)
        gold.append({"prompt": [{"role": "user", "content": request}],
                     "completion": [{"role": "assistant", "content": row["response"]}]})  # fmt: skip
    data = {f"committee, {way}": [row for row in rows if row["id"] in shared] for way, rows in tables.items()}
    files = {}
    for arm, rows in {**data, "gold labels": gold}.items():
        files[arm] = out / f"rows-{arm.replace(', ', '-').replace(' ', '-')}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), files[arm])
    return files


def main(
    out: Annotated[Path, typer.Option(help="what annotation.py wrote")] = Path("annotation"),
    steps: Annotated[int, typer.Option(help="of each student")] = 15,
    seeds: Annotated[int, typer.Option(help="training seeds")] = 1,
    ways: Annotated[str, typer.Option(help="kinds of examples, with commas between them")] = ",".join(WAYS),
) -> None:
    """Train the students, ask them, and print the table."""
    recipe = load_recipe(RECIPE, SynthesisRecipe).recipe
    config = recipe.annotate
    assert config is not None
    labeled = [file for way in ways.split(",") if (file := out / way / "dataset" / "train.parquet").is_file()]
    if not labeled or not (out / "test.jsonl").is_file():
        raise typer.BadParameter(f"{out} has no labeled texts; run `python benchmarks/annotation.py --out {out}` first")
    test = [json.loads(line) for line in (out / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    known = [read_labels(row["instruction"], row["response"], config) for row in test]
    gold: Labels = [{(seed, span) for seed in range(seeds) for span in spans} for spans in known]
    data = write_rows_of(out, config, labeled)
    count = pq.read_metadata(data["gold labels"]).num_rows
    suite, model = write_suite(test, config, out), resolve("smollm2-135m-instruct")
    found: dict[str, Labels] = {}
    broken: dict[str, int] = {}
    for arm, file in data.items():
        found[arm] = [set() for _ in test]
        broken[arm] = 0
        for seed in range(seeds):
            called = f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
            fixed = [f"train.max_steps={steps}", f"train.seed={seed}", "data.holdout.fraction=0"]
            adapter = train_student(STUDENT, file, out / f"student-{called}", fixed)
            said = answers(suite, model, adapter, out / f"eval-{called}")
            for row, labels in zip(test, found[arm], strict=True):
                spans = labels_of(row["instruction"], said[row["id"]], config)
                broken[arm] += spans is None
                labels |= {(seed, span) for span in spans or ()}
    print(f"{len(test)} texts, {seeds} seeds, {count} rows, {steps} steps")
    print("| student of | F1 | precision | recall | answers without the form | gold - it (95 %) |")
    print("|---|---|---|---|---|---|")
    figures: dict[str, Any] = {}
    for arm, labels in found.items():
        score, gain = micro_f1(gold, labels), f1_gain(gold, found["gold labels"], labels)
        figures[arm] = {**asdict(score), "broken": broken[arm], "gold - it": asdict(gain)}
        cells = f"{score.f1:.3f} | {score.precision:.3f} | {score.recall:.3f} | {broken[arm]} of {len(test) * seeds}"
        print(f"| {arm} | {cells} | {gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |")
    write_json(out / "annotation_student.json", {"students": figures, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
