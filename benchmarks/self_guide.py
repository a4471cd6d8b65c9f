"""Measure SELF-GUIDE on three tasks with a strict form of output: does data that a model writes for itself help it?

Run as: python benchmarks/self_guide.py --out FOLDER [--steps 12] [--seeds 1] [--items 40] [key=value ...]

A program makes the tasks: a date as YYYY-MM-DD, one of three words for a message, and a number alone. Each has three
worked examples and `--items` held-out items, of other sentences. The model is that of recipes/systems/self-guide.yaml.

| arm | what it is |
|---|---|
| no examples | the model as it is, asked with the instruction alone |
| prompted | the model as it is, with the examples in the prompt, as SELF-GUIDE itself asks for outputs |
| tuned on the examples | LoRA on the nine examples |
| self-guide | LoRA on rows that the model wrote, drew, and filtered |
| self-guide, reviewed | LoRA on rows of this writer that another member accepted: its own answers agree with them |

Tuned models take equal steps and are asked with the instruction alone. Answers are exact or wrong. A wrong answer
that is not of the form asked for is an error of form; others are errors of knowledge. Differences are paired by
item, with 95 % intervals. With several seeds they hold the variance between them. Recipe keys change both syntheses.
What is done is not done again in the same folder. Writes FOLDER/self_guide.json.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from curation import train_student
from numpy.typing import NDArray

from gra.config.loader import load_recipe
from gra.config.suite import GenerationConfig, SuiteConfig, TaskConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.progress import View
from gra.core.run_folder import RunFolder, environment
from gra.core.types import Seed
from gra.evaluation.suite import suite_items
from gra.stats.paired import paired_difference
from gra.stats.seeds import with_seed_variance
from gra.synthesis.prompts import hint, render
from gra.synthesis.run import make_job, run_jobs

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "systems" / "self-guide.yaml"
STUDENT = ROOT / "recipes" / "smollm2-135m" / "sft" / "config_lora.yaml"
REVIEWER = "qwen2.5-coder-1.5b-instruct"
EXAMPLES = 3
FORMS = {"date": r"\d{4}-\d{2}-\d{2}", "label": r"complaint|question|praise", "number": r"-?\d+"}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
# Sentences of the examples, then those of held-out items.
_DATED = (
    ["The bridge was opened on {}.", "Please pay the bill by {}.", "On {} the library moved."],
    ["Her first concert took place on {}.", "The contract ends on {}, as agreed.", "We met on {} in Oslo.",
     "Since {} the shop has been closed.", "The ship left the harbor on {} at noon.", "{} was the coldest day."],
)  # fmt: skip
_SAID = (
    {"complaint": ["The lamp arrived with a broken switch."], "question": ["Which size fits a tall person?"],
     "praise": ["Thank you, the cake was wonderful."]},
    {"complaint": ["The {} stopped working after two days.", "I waited weeks for the {}, and it is the wrong one.",
                   "The {} smells so bad that I cannot use it.", "I cannot reach you about the faulty {}."],
     "question": ["Does the {} come with a manual?", "How long does the {} last?",
                  "Can I send the {} back without the box?", "Where is the {} made?"],
     "praise": ["The {} is the best that I ever had.", "My whole family loves the {}.",
                "What a beautiful {}, well done!", "The {} works perfectly, even after years."]},
)  # fmt: skip
_THINGS = ("kettle", "tent", "printer", "chair", "radio", "jacket", "blender", "bicycle", "watch", "sofa")
# Problems with the sign of the second number; the third one, if any, is added.
_COUNTED = (
    [("A baker has {a} rolls and sells {b}. How many are left?", -1),
     ("There are {a} red and {b} blue cups. How many cups?", 1),
     ("A box holds {a} pens, {b} are taken out, then {c} are put in. How many pens are in it?", -1)],
    [("A farmer has {a} hens and buys {b} more. How many hens are there?", 1),
     ("Of {a} rooms in a hotel {b} are taken. How many are free?", -1),
     ("Ines reads {a} pages on Monday and {b} on Tuesday. How many pages is that?", 1),
     ("A shop had {a} lamps, sold {b} and got {c} new ones. How many lamps does it have?", -1),
     ("A class of {a} children loses {b} and gains {c}. How many children are in it now?", -1)],
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """An instruction of one task with its exact answer."""

    id: str
    task: str
    instruction: str
    answer: str


def make_items(task: str, count: int, *, held_out: bool) -> list[Item]:
    """Make items of a task; examples and held-out items share no sentence."""
    luck, part = random.Random(f"{task} {held_out}"), int(held_out)
    made: dict[str, str] = {}
    while len(made) < count:
        instruction, answer = _MAKERS[task](luck, part, len(made))
        made.setdefault(instruction, answer)
    name = "held-out" if held_out else "example"
    return [Item(f"{task}-{name}-{n:03}", task, *pair) for n, pair in enumerate(made.items())]


def _date(luck: random.Random, part: int, place: int) -> tuple[str, str]:
    year, month, day = luck.randint(1950, 2029), luck.randint(1, 12), luck.randint(1, 28)
    name = _MONTHS[month - 1]
    written = luck.choice((f"{name} {day}, {year}", f"{day} {name} {year}", f"{name[:3]} {day}, {year}"))
    sentence = _DATED[part][place % len(_DATED[part])].format(written)
    return f"Write the date in this sentence as YYYY-MM-DD.\n{sentence}", f"{year}-{month:02}-{day:02}"


def _label(luck: random.Random, part: int, place: int) -> tuple[str, str]:
    label = list(_SAID[part])[place % 3]
    message = luck.choice(_SAID[part][label]).format(luck.choice(_THINGS))
    return f"Is this message a complaint, a question or praise? Reply with one word.\n{message}", label


def _number(luck: random.Random, part: int, place: int) -> tuple[str, str]:
    a, b, c = luck.randint(30, 70), luck.randint(11, 29), luck.randint(2, 9)
    problem, sign = _COUNTED[part][place % len(_COUNTED[part])]
    result = a + sign * b + (c if "{c}" in problem else 0)
    return f"{problem.format(a=a, b=b, c=c)} Reply with the number alone.", str(result)


_MAKERS = {"date": _date, "label": _label, "number": _number}


def fault(item: Item, output: str) -> str:
    """Return `form` or `knowledge` for a wrong answer, and nothing for the exact one."""
    given = output.strip()
    if given == item.answer:
        return ""
    return "knowledge" if re.fullmatch(FORMS[item.task], given) else "form"


def jobs_of(examples: Sequence[Item], out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the two syntheses, which share a ledger: the same draw of the same prompt is made once."""
    rows = [{"id": i.id, "domain": i.task, "instruction": i.instruction, "response": i.answer} for i in examples]
    source = (out / "examples.jsonl").resolve()
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = [
        f"seeds.source={source}", f"domains=[{', '.join(FORMS)}]", f"self_guide.examples={EXAMPLES}",
        "rounds={count: 2, accept: 30, max_candidates: 120, quotas: even}",
        "committee.models.student.roles=[generator]",
        # Inputs of one task differ in few words, so only very close copies are left out.
        "dedup.threshold=0.98", f"ledger={(out / 'ledger.sqlite').resolve()}",
    ]  # fmt: skip
    sampling = "{temperature: 0.7, top_p: 1.0, max_tokens: 48}"
    reviewer = f"{{model: {REVIEWER}, roles: [reviewer], ask: agreement, draws: 2, sampling: {sampling}}}"
    reviewed = [
        "arm=gra", "committee.assignment=fixed", "committee.lead=student", "committee.reviewers=1",
        f"committee.models.reviewer={reviewer}", "review.control_items=12", "review.accept_mean=5.0",
        "review.disputed=accept",
    ]  # fmt: skip
    jobs = {}
    for arm, way in {"self-guide": [], "self-guide, reviewed": reviewed}.items():
        name = f"name={arm.replace(', ', '-')}"
        loaded = load_recipe(RECIPE, SynthesisRecipe, [name, *common, *way, *overrides])
        jobs[arm] = make_job(loaded, RunFolder(out / loaded.recipe.name), read_suite=suite_items)
    return jobs


def write_suite(items: Sequence[Item], examples: Sequence[Item], out: Path, *, shown: bool) -> SuiteConfig:
    """Write the held-out items, with the examples in the prompt where `shown`, and return the suite."""
    tasks = []
    for task in dict.fromkeys(item.task for item in items):
        seeds = [Seed(each.id, task, each.instruction, each.answer) for each in examples if each.task == task]
        rows = []
        for item in items:
            if item.task == task:
                words = {"domain": task, "hint": hint(task), "examples": seeds, "instruction": item.instruction}
                prompt = render("self_guide/output", **words) if shown else item.instruction
                check = {"kind": "regex", "pattern": f"^\\s*{re.escape(item.answer)}\\s*$"}
                rows.append({"id": item.id, "instruction": prompt, "checks": [check]})
        file = out / f"{task}-{'shown' if shown else 'plain'}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tasks.append(TaskConfig(name=task, kind="instructions", data=str(file.resolve())))
    generation = GenerationConfig(max_new_tokens=16)
    return SuiteConfig(name="self-guide", tasks=tasks, generation=generation, batch_size=40)


def answers(suite: SuiteConfig, model: Any, adapter: Path | None, output: Path) -> dict[str, str]:
    """Ask a model all items of a suite by the project's evaluation; return its outputs by item."""
    from gra.evaluation.model import ModelUnderTest
    from gra.evaluation.results import read_records
    from gra.evaluation.run import evaluate

    evaluate(suite, ModelUnderTest(output.name, model.path, adapter, None, model.identity), output)
    return {row["item"]: row["output"] or "" for row in read_records(output)}


def summarize(items: Sequence[Item], outputs: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    """Return exact match, errors by kind, and the paired gains of SELF-GUIDE over the other arms.

    Args:
        items: the held-out items.
        outputs: by arm, one mapping from items to outputs a training seed.
    """
    faults = {arm: [[fault(item, given[item.id]) for item in items] for given in seeds]
              for arm, seeds in outputs.items()}  # fmt: skip
    right = {arm: np.array([[not f for f in seed] for seed in seeds], float) for arm, seeds in faults.items()}
    formed = {arm: np.array([[f != "form" for f in seed] for seed in seeds], float) for arm, seeds in faults.items()}
    found: dict[str, Any] = {}
    for arm, seeds in faults.items():
        flat = [f for seed in seeds for f in seed]
        by_task = {
            task: float(right[arm][:, [n for n, item in enumerate(items) if item.task == task]].mean())
            for task in dict.fromkeys(item.task for item in items)
        }
        found[arm] = {
            "exact": float(right[arm].mean()), "form": flat.count("form") / len(flat),
            "knowledge": flat.count("knowledge") / len(flat), "by_task": by_task,
        }  # fmt: skip
        for ours in ("self-guide", "self-guide, reviewed"):
            if ours in right and ours != arm:
                found[arm][f"{ours} - it"] = _gain(right[ours], right[arm])
                found[arm][f"{ours} - it, form"] = _gain(formed[ours], formed[arm])
    return found


def _gain(ours: NDArray[np.float64], other: NDArray[np.float64]) -> list[float]:
    seeds = min(len(ours), len(other))
    estimate = paired_difference(ours.mean(axis=0), other.mean(axis=0), bounded=True, answers=seeds)
    estimate = with_seed_variance(estimate, ours, other)
    return [estimate.value, *estimate.interval()]


def print_table(found: Mapping[str, Any], rows: Mapping[str, int]) -> None:
    """Print one line an arm."""
    tasks = list(next(iter(found.values()))["by_task"])
    print(f"| arm | rows | exact | {' | '.join(tasks)} | errors of form | of knowledge | self-guide - it (95 %) "
          "| of it form | self-guide, reviewed - it |")  # fmt: skip
    print("|---" * (8 + len(tasks)) + "|")
    for arm, line in found.items():
        gains = [_shown(line.get(f"{key} - it{part}")) for key, part in
                 (("self-guide", ""), ("self-guide", ", form"), ("self-guide, reviewed", ""))]  # fmt: skip
        by_task = " | ".join(f"{line['by_task'][task]:.2f}" for task in tasks)
        print(f"| {arm} | {rows.get(arm, '')} | {line['exact']:.3f} | {by_task} | {line['form']:.2f} "
              f"| {line['knowledge']:.2f} | {' | '.join(gains)} |")  # fmt: skip


def _shown(gain: Sequence[float] | None) -> str:
    return "" if gain is None else f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="of both syntheses")] = None,
    out: Annotated[Path, typer.Option()] = Path("self-guide"),
    items: Annotated[int, typer.Option(help="held-out items a task")] = 40,
    steps: Annotated[int, typer.Option(help="of each tuned model")] = 12,
    seeds: Annotated[int, typer.Option(help="training seeds")] = 1,
    learning_rate: Annotated[float, typer.Option()] = 3e-4,
) -> None:
    """Write the data, tune the models, ask them the held-out items, and print the table."""
    from gra.models.catalog import resolve

    begun, view = time.monotonic(), View()
    out.mkdir(parents=True, exist_ok=True)
    examples = [item for task in FORMS for item in make_items(task, EXAMPLES, held_out=False)]
    held_out = [item for task in FORMS for item in make_items(task, items, held_out=True)]
    jobs = jobs_of(examples, out, overrides or [])
    committee = next(iter(jobs.values())).recipe.committee
    name = committee.models["student"].model
    facts = run_jobs(list(jobs.values()), View(out / "log.jsonl"), out / "logs")
    chats = [{"prompt": [{"role": "user", "content": i.instruction}],
              "completion": [{"role": "assistant", "content": i.answer}]} for i in examples]  # fmt: skip
    file = out / "examples-chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in chats), encoding="utf-8")
    data = {"tuned on the examples": file} | {
        arm: out / job.recipe.name / "dataset" / "train.parquet" for arm, job in jobs.items()
    }
    made = {arm: pq.read_table(path) for arm, path in data.items() if arm in jobs}
    rows = {"tuned on the examples": len(examples)} | {arm: table.num_rows for arm, table in made.items()}
    asked = {item.instruction for item in held_out}
    copies = {arm: sum(prompt[0]["content"] in asked for prompt in table["prompt"].to_pylist())
              for arm, table in made.items()}  # fmt: skip
    model = resolve(name, progress=view.note)
    plain, shown = (write_suite(held_out, examples, out, shown=each) for each in (False, True))
    outputs = {
        "no examples": [answers(plain, model, None, out / "eval-plain")],
        "prompted": [answers(shown, model, None, out / "eval-prompted")],
    }
    for arm, path in data.items():
        outputs[arm] = []
        for seed in range(seeds):
            called = f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
            fixed = [f"model.name={name}", f"train.max_steps={steps}", f"train.learning_rate={learning_rate}",
                     f"train.seed={seed}", "data.holdout.fraction=0"]  # fmt: skip
            adapter = train_student(STUDENT, path, out / f"tuned-{called}", fixed)
            outputs[arm].append(answers(plain, model, adapter, out / f"eval-{called}"))
    found = summarize(held_out, outputs)
    print(f"{name}, {len(held_out)} held-out items, {steps} steps, {seeds} seeds")
    print_table(found, rows)
    fates = {arm: facts[job.recipe.name]["states"] for arm, job in jobs.items()}
    print(f"candidates: {json.dumps(fates)}")
    # At 0.5 the reviewer's own answers say nothing about the examples, and it rejects no row.
    auc = facts[jobs["self-guide, reviewed"].recipe.name]["committee_auc"]
    print(f"AUC of the reviewer on the examples, right against exchanged answers: {auc}")
    print(f"made inputs that are held-out items: {', '.join(f'{arm} {n}' for arm, n in copies.items())}")
    seconds = round(time.monotonic() - begun, 1)
    print(f"{seconds:.0f} s with engine start-up")
    content = {"arms": found, "rows": rows, "copies": copies, "outputs": outputs, "seconds": seconds,
               "candidates": fates, "reviewer_auc": auc}  # fmt: skip
    write_json(out / "self_guide.json", content | {"environment": environment()})


if __name__ == "__main__":
    typer.run(main)
