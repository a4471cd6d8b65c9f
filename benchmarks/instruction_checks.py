"""Measure which questions tell sound instructions from ill-posed ones, by model and by way of asking.

Run as: python benchmarks/instruction_checks.py ask --seeds-dir DATA/seeds --out checks/
        python benchmarks/instruction_checks.py table --out checks/

Two sets of items. `choose`: the 70 seeds of the quickstart, and the control instructions that a run makes of them.
`report`: Self-Instruct and Vicuna instructions, and others' faults: the same tasks without their input, two tasks in
one, and personal and impossible requests that are written here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import typer
from review_truth import MODELS

from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.processes.concurrency import together
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.core.types import ALL_CHECKS, CHECKS, FAULT_CHECKS, LIKELY_CHECK, SIGN_CHECKS, Seed
from gra.engines.broker import Broker
from gra.engines.types import Likelihood
from gra.ledger.ledger import Ledger
from gra.serving.models import find_models, running
from gra.stats.panel import log_odds
from gra.stats.reliability import auc, logistic
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.instruction_signs import SIGNS
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.committee.reviewer import YES_NO, yes_probabilities
from gra.synthesis.measuring.controls import ControlItem, ControlKind, instruction_controls
from gra.synthesis.measuring.instruction_checks import check_rates, fit_gates
from gra.synthesis.prompts import CHECK_QUESTIONS, FAULT_QUESTIONS

SEEDS = Path(__file__).parents[1] / "recipes" / "seeds" / "quickstart.jsonl"
# True where "yes" speaks for the instruction.
QUESTIONS = (
    {name: (text, True) for name, text in CHECK_QUESTIONS.items()}
    | {name: (text, False) for name, text in FAULT_QUESTIONS.items()}
    | {
        "by_text": ("Can it be done by reading and writing text alone?", True),
        "contained": ("Does the exercise itself contain every text, number and name that it speaks of?", True),
        "one": ("Is it one single exercise from its first word to its last?", True),
    }
)
_EXAMPLES = """Some exercises for an assistant that only reads and writes text are sound, others are not.

Exercise: List three fruits that grow on trees.
Sound: yes
Exercise: What is your favorite food?
Sound: no
Exercise: Translate 'Good morning' into French.
Sound: yes
Exercise: Summarize the article below in one sentence.
Sound: no
Exercise: You are a bus driver. Greet a passenger who has lost her ticket.
Sound: yes
Exercise: Look at the photo and count the people in it.
Sound: no
Exercise: How many days are there in a leap year?
Sound: yes
Exercise: Write a poem about the price of two apples cost 3 euros?
Sound: no
Exercise: Order a pizza for me.
Sound: no
Exercise: Write a Python function that doubles a number.
Sound: yes
Exercise: Correct the spelling: 'I hav a dogg.'
Sound: yes
Exercise: {instruction}
Is the last exercise sound? Reply with one word, yes or no."""
_PERSONAL = (
    "What is your earliest memory?", "Which book did you read last?", "Do you prefer tea or coffee?",
    "Tell me about your best friend.", "What are you going to do this evening?", "How old are you?",
    "What made you choose your profession?", "Are you afraid of spiders?", "Describe the house you live in.",
    "Which languages did you learn at school?", "What is your favorite season, and why?", "Do you have any pets?",
    "When did you last laugh out loud?", "What do you usually eat for lunch?", "Where did you grow up?",
    "Which film have you seen most often?", "What time did you get up this morning?", "Do you like your neighbors?",
    "Name the person you admire most in your family.", "How was your weekend?",
)  # fmt: skip
_IMPOSSIBLE = (
    "Watch the video and say what happens at the end.", "Is there a pharmacy open near me?",
    "Call the restaurant and ask for the opening hours.", "What is the exchange rate of the dollar today?",
    "Smell this flower and describe it.", "Turn off the lights in the kitchen.",
    "Which of the two photos is brighter?", "Download the file and convert it to PDF.",
    "What am I holding in my hand?", "Play a relaxing song.", "Draw a circle on this sheet of paper.",
    "Who is the person in the picture?", "Remind me tomorrow at nine to call my mother.",
    "Check whether my parcel has arrived.", "What is the temperature in your room?", "Record a voice message for Anna.",
    "Scan the barcode and read out the price.", "Pay the electricity bill for this month.",
    "Print this page twice.", "Find the cheapest flight to Rome for next Friday.",
)  # fmt: skip
_SPEAKS_OF_INPUT = re.compile(r"\b(given|following|below|above|these|this|provided)\b", re.IGNORECASE)
app = typer.Typer(help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


def items(half: str, seeds_dir: Path) -> list[ControlItem]:
    """Load the items of one half."""
    if half == "choose":
        seeds = [_seed(row["id"], row["domain"], row["instruction"]) for row in map(json.loads, SEEDS.open())]
        return [*instruction_controls(seeds, 8, 0)[8:], *(_item(ControlKind.GOOD, s.id, s.instruction) for s in seeds)]
    random = Random(0)
    tasks = [json.loads(line) for line in (seeds_dir / "self_instruct_seed_tasks.jsonl").open()]
    found = [
        _item(ControlKind.GOOD, f"vicuna-{place}", row["text"])
        for place, row in enumerate(map(json.loads, (seeds_dir / "vicuna_80.jsonl").open()))
    ]
    whole = []
    for task in tasks:
        given = task["instances"][0]["input"].strip()
        text = f"{task['instruction']}\n\n{given}".strip()
        if len(text) <= 800:
            whole.append((task["id"], text))
            found.append(_item(ControlKind.GOOD, task["id"], text))
        # Only instructions that speak of their input lack it when it is gone.
        if given and _SPEAKS_OF_INPUT.search(task["instruction"]):
            found.append(_item(ControlKind.INCOMPLETE, task["id"], task["instruction"]))
    for (name, one), (_, two) in list(zip(whole[::2], whole[1::2], strict=False))[:40]:
        first, second = one.split(), two.split()
        text = " ".join([*first[: (len(first) + 1) // 2], *second[len(second) // 2 :]])
        found.append(_item(ControlKind.MERGED, name, text))
    shuffled = random.sample(found, len(found))
    most = {ControlKind.GOOD: 100, ControlKind.INCOMPLETE: 40, ControlKind.MERGED: 30}
    found = [item for kind, count in most.items() for item in [i for i in shuffled if i.kind is kind][:count]]
    found += [_item(ControlKind.PERSONAL, f"p{place}", text) for place, text in enumerate(_PERSONAL)]
    return found + [_item(ControlKind.IMPOSSIBLE, f"i{place}", text) for place, text in enumerate(_IMPOSSIBLE)]


def _seed(name: str, domain: str, instruction: str) -> Seed:
    return Seed(name, domain, instruction, "")


def _item(kind: ControlKind, name: str, text: str) -> ControlItem:
    return ControlItem(kind, name, text, "")


async def ask_all(out: Path, seeds_dir: Path, models: Sequence[str]) -> None:
    """Ask every question about every item, and write one JSON file."""
    committee = {who: {"model": MODELS[who][0]} for who in models}
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "instruction-checks",
            "seeds": {"source": "-"},
            "committee": {"models": committee, "reviewers": 0},
            "engine": {"max_model_len": 2048, "concurrency": 32, "kv_cache_gb": 0.6, "memory_gb": 7.1},
        }
    )
    view = View()
    registry = find_models([recipe], view)
    members = {
        who: make_member(who, MemberConfig.model_validate(each), ReviewConfig(), registry.model_id(each["model"]))
        for who, each in committee.items()
    }
    ledger = Ledger(out / "ledger.sqlite", run="instruction-checks")
    rows: list[dict[str, Any]] = []
    async with running(registry.pool(out / "logs"), view) as pool:
        broker = Broker(ledger, pool, call_timeout_s=3600.0)
        asked = [(half, item) for half in ("choose", "report") for item in items(half, seeds_dir)]
        for who, member in members.items():
            found = await together(*(_scores(broker, member, item) for _, item in asked))
            rows += [
                {"half": half, "model": who, "kind": str(item.kind), "item": item.name, "text": item.instruction}
                | {"scores": scores}
                for (half, item), scores in zip(asked, found, strict=True)
            ]
            write_json(out / "checks.json", {"rows": rows, "environment": environment()})
    ledger.close()


async def _scores(broker: Broker, member: Member, item: ControlItem) -> dict[str, float]:
    """Return log-odds for the instruction by question, and how likely the text is."""
    recorder = CallRecorder(broker, f"check {item.name}")
    texts = {name: text for name, (text, _) in QUESTIONS.items()}
    said = await yes_probabilities(
        recorder, member, "check_yes_no", texts, role="reviewer", instruction=item.instruction
    )
    scores = {name: float(log_odds(value / 10)) * (1 if QUESTIONS[name][1] else -1) for name, value in said.items()}
    prompt = _EXAMPLES.format(instruction=item.instruction)
    p = (await recorder.ask(member.call(prompt, YES_NO, role="reviewer", candidate=recorder.candidate))).value
    scores["examples"] = float(np.log(max(p["yes"], 1e-9) / max(p["no"], 1e-9)))
    output = Likelihood(item.instruction)
    call = member.call("Write an exercise for an assistant.", output, role="reviewer", candidate=recorder.candidate)
    given = (await recorder.ask(call)).value
    scores["logprob"] = float(given["logprob"] / max(1.0, given["tokens"]))
    return scores


@app.command()
def ask(
    seeds_dir: Annotated[Path, typer.Option(help="a folder with self_instruct_seed_tasks.jsonl and vicuna_80.jsonl")],
    out: Annotated[Path, typer.Option(help="where ledger and answers go")],
    models: Annotated[str, typer.Option(help="models with commas")] = "0.5b,1.5b",
) -> None:
    """Ask every question about every item."""
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(ask_all(out, seeds_dir, models.split(",")))


@app.command()
def table(out: Annotated[Path, typer.Option(help="what `ask` wrote")]) -> None:
    """Print the AUC of every question by kind of fault, and what fitted combinations of checks reject."""
    rows = json.loads((out / "checks.json").read_text())["rows"]
    combined = {who: _combinations(rows, who) for who in dict.fromkeys(row["model"] for row in rows)}
    write_json(out / "combined.json", combined)
    for half in ("choose", "report"):
        for who in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["half"] == half and row["model"] == who]
            kinds = [kind for kind in dict.fromkeys(row["kind"] for row in own) if kind != "good"]
            print(f"\n{half}, {who}: AUC against good\n| question | {' | '.join(kinds)} |")
            for name in own[0]["scores"]:
                values = {
                    kind: [row["scores"][name] for row in own if row["kind"] == kind] for kind in ["good", *kinds]
                }
                print(f"| {name} | " + " | ".join(f"{auc(values['good'], values[kind]):.2f}" for kind in kinds) + " |")


COMBINATIONS = {
    "each, the paper's three": (CHECKS, False),
    "each, all seven questions": ((*CHECKS, *FAULT_CHECKS), False),
    "fitted, the paper's three": (CHECKS, True),
    "fitted, all seven questions": ((*CHECKS, *FAULT_CHECKS), True),
    "fitted, signs": (SIGN_CHECKS, True),
    "fitted, signs and likely": ((*SIGN_CHECKS, LIKELY_CHECK), True),
    "fitted, complete, signs and likely": (("complete", *SIGN_CHECKS, LIKELY_CHECK), True),
    "fitted, reasonable, complete, signs and likely": (("reasonable", "complete", *SIGN_CHECKS, LIKELY_CHECK), True),
    "fitted, reasonable, complete, impersonal, signs and likely": (
        ("reasonable", "complete", "impersonal", *SIGN_CHECKS, LIKELY_CHECK),
        True,
    ),
    "fitted, the paper's three and likely": ((*CHECKS, LIKELY_CHECK), True),
    "fitted, the paper's three and signs": ((*CHECKS, *SIGN_CHECKS), True),
    "fitted, the paper's three, signs and likely": ((*CHECKS, *SIGN_CHECKS, LIKELY_CHECK), True),
    "fitted, all": (ALL_CHECKS, True),
}


def _combinations(rows: Sequence[dict[str, Any]], who: str) -> dict[str, Any]:
    """Return the share that each combination rejects by kind: crossed on `choose`, and fitted there on `report`."""
    found: dict[str, Any] = {}
    for label, (names, combine) in COMBINATIONS.items():
        parts = {}
        for half in ("choose", "report"):
            own = [row for row in rows if row["half"] == half and row["model"] == who]
            items = [_item(ControlKind(row["kind"]), row["item"], row["text"]) for row in own]
            values = {i.name: {n: _values(row)[n] for n in names} for i, row in zip(items, own, strict=True)}
            parts[half] = items, {who: values}
        items, checks = parts["choose"]
        crossed = check_rates(checks, items, 0, combine=combine)
        gates = fit_gates(checks, items, combine=combine)
        others, values = parts["report"]
        kinds = dict.fromkeys(str(item.kind) for item in others)
        found[label] = {
            "choose": crossed,
            "report": {
                kind: {
                    "rejected": float(np.mean([gates.fails(values, i.name) for i in others if i.kind == kind])),
                    "items": sum(i.kind == kind for i in others),
                }
                for kind in kinds
            },
        }
    kinds = list(dict.fromkeys(kind for kind in found["fitted, signs"]["choose"] if kind != "good"))
    for half in ("choose", "report"):
        print(f"\n{half}, {who}: share rejected\n| checks | good | faulty | {' | '.join(kinds)} |")
        for label, figures in found.items():
            rates = figures[half]
            faulty = sum(rates[k]["rejected"] * rates[k]["items"] for k in kinds) / sum(
                rates[k]["items"] for k in kinds
            )
            cells = " | ".join(f"{rates[kind]['rejected']:.0%}" for kind in kinds)
            print(f"| {label} | {rates['good']['rejected']:.0%} | {faulty:.0%} | {cells} |")
    return found


def _values(row: dict[str, Any]) -> dict[str, float]:
    """Return the values of checks as a run has them: probabilities, and 0 or 1 for signs."""
    values = {name: float(logistic(score)) for name, score in row["scores"].items() if name != "logprob"}
    values |= {name: float(not sign(row["text"])) for name, sign in SIGNS.items()}
    return values | {LIKELY_CHECK: float(np.exp(row["scores"]["logprob"]))}


if __name__ == "__main__":
    app()
