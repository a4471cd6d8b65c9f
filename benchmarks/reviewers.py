"""Measure quality and cost of small models' reviews, by the way they are asked, and of a committee of them.

Run as: python benchmarks/reviewers.py MODEL:WAY [MODEL:WAY ...] [--pairs 28] [--data-dir DIR] [--llmbar 60]
        [--pandalm 60] [--committee MODEL:WAY ...] [--adapter FOLDER] [--json FILE]
        python benchmarks/reviewers.py --data-dir DIR --critic-rows FOLDER [--most 240]

Reviews pairs of answers of which one is known to be better (`review_pairs.py`): control items from the project's seeds,
and with --data-dir pairs that people judged. WAY is one that a recipe can choose (integers, expected, yes_no,
likelihood; correctness is yes_no with `dimensions: [correctness]`), or one of these:

    overall_yes_no, overall_digit   one overall question in place of six
    few_shot                        overall_yes_no after two worked examples
    without_exercise                correctness as log-odds, less those for the same answer to no exercise
    without_answer                  correctness as log-odds, less those for an empty answer to the same exercise
    backward                        likelihood of the exercise given the answer

Each reviewer has its own engine, so that no prompt is in the cache before. With --json, reviewers that FILE holds are
kept: run one reviewer at a time, and the committee is all of them. With --ledgers DIR an interrupted run goes on;
--replay starts no engine and reads the ledgers. For control items the figure is the AUC. For judged pairs it is
the share in which the better answer scores higher, with ties counted half.

--critic-rows writes rows that train a critic on what people preferred (PandaLM) and ends. With --adapter every reviewer
is measured with and without it, on pairs that are not in these rows. --llmbar is then a number for each of two kinds.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, get_args

import numpy as np
import psutil
import typer
from review_pairs import (
    ALL,
    CONTROL_ITEMS,
    JUDGED,
    LLMBAR,
    PANDALM,
    Pair,
    both_scored,
    control_items,
    critic_items,
    gains,
    held_out,
    judged,
    names,
    show_gains,
    won,
)

from gra.config.committee import Ask, MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import DOMAINS, SynthesisRecipe
from gra.core.files import write_json
from gra.core.processes.concurrency import together
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.core.types import Usage
from gra.data.control_items import export_control_items
from gra.data.seeds.load import load_seeds
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Fault, Likelihood
from gra.ledger.ledger import Ledger
from gra.serving.models import find_models, running
from gra.stats.reliability import auc, calibrate
from gra.synthesis.candidate import uncalibrated
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.committee.reviewer import YES_NO, expected_digits, score_response, yes_probabilities
from gra.synthesis.measuring import critic
from gra.synthesis.prompts import SCORE_QUESTIONS, render

KINDS = (*CONTROL_ITEMS, *JUDGED)
RECIPE_WAYS = (*get_args(Ask), "correctness")
OVERALL = {"overall": "Is the answer about this exercise, correct and complete?"}
CORRECTNESS = {"correctness": SCORE_QUESTIONS["correctness"]}
BASES = {"without_exercise": {"instruction": "Write something."}, "without_answer": {"response": "(no answer)"}}
EXAMPLES = [
    ("Name the three primary colours of light.", "Red, green and blue.", "yes"),
    ("How many minutes are there in two hours?", "Bees make honey from the nectar of flowers.", "no"),
]
NOT_ASKED = Fault("error", "not recorded, and nothing is asked", permanent=True)
TRIAL_WAYS = ("overall_yes_no", "overall_digit", "few_shot", "backward", *BASES)
Scores = dict[str, dict[str, float]]  # what a review says, by the name of the answer


async def review(recorder: CallRecorder, member: Member, way: str, instruction: str, response: str) -> dict[str, float]:
    """One review: what was read off for each question."""
    shown = {"instruction": instruction, "response": response}
    if way in RECIPE_WAYS:
        return (await score_response(recorder, member, **shown, comment=False, calibrate=uncalibrated)).values
    if way == "overall_yes_no":
        return await yes_probabilities(recorder, member, "score_yes_no", OVERALL, role="reviewer", **shown)
    if way == "overall_digit":
        return await expected_digits(recorder, member, "score_digit", OVERALL, role="reviewer", **shown)
    if way == "few_shot":
        return await few_shot(recorder, member, shown)
    if way in BASES:
        return await contrast(recorder, member, shown, shown | BASES[way])
    return await backward(recorder, member, **shown)


async def few_shot(recorder: CallRecorder, member: Member, shown: Mapping[str, str]) -> dict[str, float]:
    """One question in place of six, after an answer that is good and one that belongs elsewhere."""

    def put(instruction: str, response: str) -> str:
        return render("score_yes_no", question=OVERALL["overall"], instruction=instruction, response=response)

    examples = [(("user", put(*example[:2])), ("assistant", example[2])) for example in EXAMPLES]
    call = member.call(put(**shown), YES_NO, role="reviewer", candidate=recorder.candidate)
    messages = (*(turn for pair in examples for turn in pair), *call.messages)
    said = (await recorder.ask(replace(call, messages=messages))).value
    return {"overall": 10 * said["yes"] / (said["yes"] + said["no"])}


async def backward(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    """Nats by which the answer makes the exercise likelier."""
    prompts = (f"{response}\n\n(Write the exercise to which this is the answer.)", "Write an exercise.")
    output = Likelihood(instruction)
    calls = [member.call(prompt, output, role="reviewer", candidate=recorder.candidate) for prompt in prompts]
    given, alone = await together(*(recorder.ask(call) for call in calls))
    return {"relevance": float(given.value["logprob"] - alone.value["logprob"])}


async def contrast(
    recorder: CallRecorder, member: Member, shown: Mapping[str, str], base: Mapping[str, str]
) -> dict[str, float]:
    """By how much what is shown raises the log-odds of "yes" over those for the base."""

    async def odds(values: Mapping[str, str]) -> float:
        said = await yes_probabilities(recorder, member, "score_yes_no", CORRECTNESS, role="reviewer", **values)
        return log_odds(said["correctness"])

    given, alone = await together(odds(shown), odds(base))
    return {"correctness": given - alone}


def log_odds(score: float) -> float:
    """Of a probability that is given as a score from 0 to 10."""
    share = min(max(score / 10, 1e-6), 1 - 1e-6)
    return float(np.log(share / (1 - share)))


def answers_of(pairs: Sequence[Pair]) -> dict[str, tuple[str, str]]:
    """(exercise, answer) by name; a seed's own answer is in several pairs and is reviewed once."""
    return {
        name: (p.instruction, text) for p in pairs for name, text in zip(names(p), (p.better, p.worse), strict=True)
    }


async def measure(
    reviewer: str, pairs: Sequence[Pair], folder: Path, replay: bool, adapter: str | None = None
) -> dict[str, Any]:
    """Scores and cost of one reviewer on an engine of its own; nothing is asked when replaying."""
    model, _, way = reviewer.rpartition(":")
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "reviewers",
            "arm": "distilled",
            "seeds": {"source": "-"},
            "teacher": {"model": model, "adapter": adapter},
            "engine": {"max_model_len": 4096, "concurrency": 32, "kv_cache_gb": 0.5},
        }
    )
    view = View()
    registry = find_models([recipe], view)
    asked: dict[str, Any] = {"model": model, "adapter": adapter, "sampling": {"max_tokens": 200}}
    asked |= {"ask": way} if way in get_args(Ask) else {"ask": "yes_no"}
    asked |= {"dimensions": ["correctness"]} if way == "correctness" else {}
    model_id = registry.model_id(model, adapter)
    member = make_member(reviewer, MemberConfig.model_validate(asked), ReviewConfig(), model_id)
    answers = answers_of(pairs)
    ledger = Ledger(folder / f"{model.replace('/', '--')}.sqlite", run="reviewers")
    notebooks: dict[str, CallRecorder] = {}
    silent = EnginePool({member.model.name: MockEngine(member.model.name, lambda _: NOT_ASKED)}, 1.0)
    async with running(silent if replay else registry.pool(folder), view) as pool:
        broker = Broker(ledger, pool, call_timeout_s=3600.0)

        async def one(name: str, instruction: str, response: str) -> dict[str, float] | None:
            notebooks[name] = CallRecorder(broker, name)
            try:
                return await review(notebooks[name], member, way, instruction, response)
            except Unanswered:
                return None

        begun, busy = time.monotonic(), processor_seconds()
        said = await asyncio.gather(*(one(name, *answer) for name, answer in answers.items()))
        took = {"seconds": time.monotonic() - begun, "processor_seconds": processor_seconds() - busy}
        cached = sum(engine.stats.cached_tokens for engine in pool.engines.values())
    ledger.close()
    scores = {name: values for name, values in zip(answers, said, strict=True) if values is not None}
    return {
        "adapter": adapter,
        "reviews": len(answers),
        "unusable": len(answers) - len(scores),
        **cost(list(notebooks.values()), broker.progress.asked, took | {"cached_tokens": cached}),
        "scores": scores,
    }


def processor_seconds() -> float:
    """What the engine's processes have used so far."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(each.user + each.system for each in times))


def cost(notebooks: Sequence[CallRecorder], asked: int, measured: Mapping[str, float]) -> dict[str, float]:
    """Tokens and seconds of one review; what was measured was of the calls asked now, not of those replayed."""
    usage = sum((each for recorder in notebooks for each in recorder.usage.values()), Usage())
    found: dict[str, float] = {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    done = [recorder for recorder in notebooks if recorder.usage]
    found |= {key: value * usage.calls / asked for key, value in measured.items() if asked}
    return {key: value / max(1, len(done)) for key, value in found.items()}


def mean_of(scores: Scores) -> dict[str, float]:
    """What a reviewer's review counts for: the mean of what it says."""
    return {name: fmean(values.values()) for name, values in scores.items()}


def lengths(pairs: Sequence[Pair]) -> dict[str, float]:
    """The baseline that needs no model: how long each answer is."""
    return {name: float(len(text)) for name, (_, text) in answers_of(pairs).items()}


def figures(scores: Mapping[str, float], pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Accuracy, its standard error and AUC by kind of pair, over the pairs of which both answers have a score."""
    found = {}
    for kind in KINDS:
        held = both_scored(scores, pairs, kind)
        if not held:
            continue
        better, worse = np.array([[scores[name] for name in names(p)] for p in held]).T
        right = fmean(won(scores, p) for p in held)
        error = (right * (1 - right) / len(held)) ** 0.5
        found[kind] = {"pairs": len(held), "accuracy": right, "error": error, "auc": auc(better, worse)}
    return found


def together_as(members: Iterable[Mapping[str, float]], pairs: Sequence[Pair]) -> dict[str, float]:
    """The mean of members' scores, each calibrated on the mismatched pairs as `review.control_items` does."""
    mismatched = [names(p) for p in pairs if p.kind == "mismatched"]
    scaled: list[dict[str, float]] = []
    for scores in members:
        held = [(a, b) for a, b in mismatched if {a, b} <= set(scores)]
        scale = calibrate([scores[a] for a, _ in held], [scores[b] for _, b in held])
        scaled.append({name: scale(raw) for name, raw in scores.items()})
    shared = set.intersection(*(set(scores) for scores in scaled))
    return {name: fmean(scores[name] for scores in scaled) for name in sorted(shared)}


def row(label: str, found: Mapping[str, Mapping[str, float]], paid: Mapping[str, float] | None = None) -> str:
    """Return one line of the table."""
    cells = []
    for kind in KINDS:
        at = found.get(kind)
        figure = "auc" if kind in CONTROL_ITEMS else "accuracy"
        cells.append("" if at is None else f"{at[figure]:.2f} ({at['pairs']:.0f})")
    spent = ["", ""]
    if paid:
        cached = f", {paid['cached_tokens']:.0f} cached" if paid.get("cached_tokens", 0) >= 1 else ""
        tokens = f"{paid['prompt_tokens']:.0f}{cached} / {paid['completion_tokens']:.0f}"
        spent = [tokens, f"{paid['processor_seconds']:.2f}" if paid.get("processor_seconds") else "not measured"]
    return f"| {' | '.join([label, *cells, *spent])} |"


def show(rows: Mapping[str, Mapping[str, Any]], pairs: Sequence[Pair], committee: Sequence[str]) -> dict[str, Any]:
    """Print the table; the figures by label."""
    print(f"| reviewer | {' | '.join(KINDS)} | tokens read / written a review | processor s a review |")
    print("|---|" + "---|" * (len(KINDS) + 2))
    length = lengths(pairs)
    found = {"longer wins": figures(length, pairs)}
    found["shorter wins"] = figures({name: -value for name, value in length.items()}, pairs)
    for reviewer, measured in rows.items():
        found[reviewer] = figures(mean_of(measured["scores"]), pairs)
        if reviewer.endswith(":yes_no"):
            odds = {name: {q: log_odds(v) for q, v in said.items()} for name, said in measured["scores"].items()}
            found[f"{reviewer}, mean of log-odds"] = figures(mean_of(odds), pairs)
        if reviewer.endswith((":yes_no", ":expected")):
            for question in next(iter(measured["scores"].values())):
                alone = {name: values[question] for name, values in measured["scores"].items()}
                found[f"{reviewer}, {question} alone"] = figures(alone, pairs)
    members = [mean_of(rows[name]["scores"]) for name in committee if name in rows]
    if len(members) > 1 and any(pair.kind == "mismatched" for pair in pairs):  # what members are calibrated on
        found[f"committee of {', '.join(name for name in committee if name in rows)}"] = figures(
            together_as(members, pairs), pairs
        )
    for label, kinds in found.items():
        print(row(label, kinds, rows.get(label)))
    return found


def all_pairs(count: int, data_dir: Path | None, llmbar: int, pandalm: int, draw: Any = judged) -> list[Pair]:
    """What reviewers are asked about; `draw` is `judged` or `held_out`."""
    found = control_items(load_seeds(Path("recipes/seeds/quickstart.jsonl"), DOMAINS).rows, count)
    return found + (draw(data_dir, llmbar, pandalm) if data_dir else [])


def absent(data_dir: Path | None) -> list[str]:
    """The judged sets that cannot be asked about, in words."""
    if data_dir is None:
        return ["LLMBar and PandaLM are left out: no --data-dir is given"]
    return [
        f"left out: {data_dir / file} is not there" for file in (LLMBAR, PANDALM) if not (data_dir / file).is_file()
    ]


def write_critic_rows(data_dir: Path, folder: Path, most: int) -> None:
    """Write training rows of a critic from what people preferred, and say what was left out."""
    items, left_out = critic_items(data_dir, most)
    path = export_control_items(folder, critic.critic_rows(items, {}))
    print(f"{len(items)} rows of {len({item.instruction for item in items})} instructions: {path}")
    print(f"pairs left out: {', '.join(f'{reason} {count}' for reason, count in left_out.items())}")


def main(
    reviewers: Annotated[list[str] | None, typer.Argument(metavar="MODEL:WAY")] = None,
    pairs: int = 28,
    data_dir: Path | None = None,
    llmbar: int = 60,
    pandalm: int = 60,
    committee: Annotated[list[str] | None, typer.Option(help="default: all that are asked as a recipe can")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    replay: bool = False,
    ledgers: Annotated[Path | None, typer.Option(help="a folder that keeps answers for a later run")] = None,
    adapter: Annotated[Path | None, typer.Option(help="of a critic trained on what --critic-rows wrote")] = None,
    critic_rows: Annotated[Path | None, typer.Option(help="write a critic's training rows here, and end")] = None,
    most: Annotated[int, typer.Option(help="training rows")] = 240,
) -> None:
    """Measure and print one table."""
    rows: dict[str, dict[str, Any]] = {}
    if json_file and json_file.is_file():
        rows = json.loads(json_file.read_text(encoding="utf-8"))["rows"]
    for reviewer in reviewers or []:
        if reviewer.rpartition(":")[2] not in RECIPE_WAYS + TRIAL_WAYS:
            raise typer.BadParameter(
                f"`{reviewer}` must be MODEL:WAY, with WAY of {', '.join(RECIPE_WAYS + TRIAL_WAYS)}"
            )
    if (adapter or critic_rows) and (data_dir is None or absent(data_dir)):
        raise typer.BadParameter(f"--adapter and --critic-rows need a --data-dir with {LLMBAR} and {PANDALM}")
    if critic_rows and data_dir:
        write_critic_rows(data_dir, critic_rows, most)
        return
    for note in absent(data_dir):
        print(note)
    draw = held_out if adapter else judged
    asked = all_pairs(pairs, data_dir, llmbar, pandalm, draw)
    with tempfile.TemporaryDirectory() as folder:
        (ledgers or Path(folder)).mkdir(parents=True, exist_ok=True)
        for reviewer in reviewers or []:
            model, _, way = reviewer.rpartition(":")
            labels: dict[str, str | None] = {reviewer: None}
            if adapter:
                labels[f"{model}+{adapter}:{way}"] = str(adapter)
            for label, each in labels.items():
                rows[label] = asyncio.run(measure(reviewer, asked, ledgers or Path(folder), replay, each))
                if json_file:
                    write_json(json_file, {"rows": rows, "environment": environment()})
    # What was measured before may have been asked about more pairs than these.
    every = all_pairs(ALL, data_dir, ALL, ALL, draw) if rows else asked
    seen = {name for measured in rows.values() for name in measured["scores"]}
    shown = [pair for pair in every if set(names(pair)) <= seen] if rows else asked
    in_recipes = [name for name in rows if name.rpartition(":")[2] in RECIPE_WAYS and not rows[name].get("adapter")]
    found = show(rows, shown, committee or in_recipes)
    scores = {label: mean_of(measured["scores"]) for label, measured in rows.items()}
    # With the adapter: without it, also for reviewers that were measured by an earlier call.
    trained = {label: label.replace(f"+{at['adapter']}:", ":") for label, at in rows.items() if at.get("adapter")}
    gained = {label: gains(scores[plain], scores[label], shown) for label, plain in trained.items()}
    if gained:
        show_gains(gained)
    if json_file:
        write_json(json_file, {"rows": rows, "figures": found, "gains": gained, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
