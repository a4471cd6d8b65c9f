"""Measure whether reviewers tell right answers from wrong ones, on items whose answers a program knows.

Run as: python benchmarks/review_truth.py ask --half choose --count 60 --data-dir DATA/bench --out truth/
        python benchmarks/review_truth.py ask --half report --count 60 --data-dir DATA/bench --out truth/
        python benchmarks/review_truth.py critic --out truth/
        python benchmarks/review_truth.py pairs --out truth/
        python benchmarks/review_truth.py table --out truth/

`ask` has members answer the items of `truth_items.py` and scores every answer in every way. It keeps a ledger, so a
stopped run goes on where it was. Rows of other kinds and authors that an earlier call wrote to the same folder stay.
`table` prints AUROC, precision at 30, 50 and 70 % acceptance over the base rate, and cost (tokens x billions of
parameters a review) for every way, beside the length of the answer. Combinations are fitted on the half `choose` and
scored on the half `report`. Intervals are bootstrap percentiles over items.

Ways to score an answer, by model:
    logprob      mean log-probability of the answer's tokens given the exercise
    information  total log-probability given the exercise, less that given no exercise
    yes_no       mean of six yes-or-no questions; `correctness` is one of them alone
    reference    yes or no: does the answer agree with the model's own answer?
    critic       `correctness` of the 0.5B model with an adapter trained on what `critic` wrote
    reward       a reward model trained on what `pairs` wrote
    agreement    share of four (`of 1`, `of 2`: fewer) further answers of the model that come to the same result
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from truth_items import KINDS, MAX_TOKENS, TruthItem, items
from truth_table import print_tables

from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.processes.concurrency import together
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.core.types import Usage
from gra.data.control_items import export_control_items
from gra.engines.broker import Broker
from gra.engines.types import Likelihood, Text
from gra.ledger.ledger import Ledger
from gra.serving.models import find_models, running
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.committee.reviewer import YES_NO, reward, yes_probabilities
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.measuring.critic import critic_rows
from gra.synthesis.prompts import SCORE_QUESTIONS

MODELS = {
    "1.5b": ("qwen2.5-coder-1.5b-instruct", 1.54),
    "0.5b": ("qwen2.5-coder-0.5b-instruct", 0.49),
    "135m": ("smollm2-135m-instruct", 0.135),
    "critic": ("qwen2.5-coder-0.5b-instruct", 0.49),  # with the adapter of `--critic`
    "reward": ("qwen2.5-coder-0.5b-instruct", 0.49),  # what `--reward` was trained from
}
FURTHER = 4
_REFERENCE = """An assistant was given an exercise and answered it. Another answer is given for comparison.

<exercise>
{instruction}
</exercise>

<other answer>
{reference}
</other answer>

<answer>
{response}
</answer>

Do both answers come to the same result? Reply with one word, yes or no."""
app = typer.Typer(help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


class Asking:
    """Members, broker and the answers of one half."""

    def __init__(self, broker: Broker, members: dict[str, Member]) -> None:
        self.broker = broker
        self.members = members
        self._further: dict[tuple[str, str], asyncio.Task[list[str]]] = {}

    async def answer(self, who: str, item: TruthItem, sample: int, recorder: CallRecorder) -> str:
        """Ask a member for an answer; raises Unanswered when it is cut off or unusable."""
        member = self.members[f"{who}-{item.kind}"]
        call = member.call(item.instruction, Text(), role="solver", candidate=recorder.candidate, sample=sample)
        return (await recorder.ask(call)).text.strip()

    async def further(self, who: str, item: TruthItem, recorder: CallRecorder) -> list[str]:
        """Ask for further answers, once an item."""

        async def one(sample: int) -> str | None:
            try:
                return await self.answer(who, item, sample, recorder)
            except Unanswered:
                return None

        key = (who, item.kind + item.id)
        if key not in self._further:
            task = together(*(one(sample) for sample in range(1, FURTHER + 1)))
            self._further[key] = asyncio.ensure_future(task)
        return [text for text in await self._further[key] if text]

    async def score(self, way: str, who: str, item: TruthItem, response: str, name: str) -> tuple[float, float] | None:
        """Score one answer in one way: the score, and its cost in tokens x billions of parameters."""
        recorder = CallRecorder(self.broker, name)
        try:
            value = await self._score(way, who, item, response, recorder)
        except Unanswered:
            return None
        spent = sum(recorder.usage.values(), Usage())
        return (value, (spent.prompt_tokens + spent.completion_tokens) * MODELS[who][1]) if value is not None else None

    async def _score(self, way: str, who: str, item: TruthItem, response: str, recorder: CallRecorder) -> float | None:
        member = self.members[f"{who}-{item.kind}"]
        shown = {"instruction": item.instruction, "response": response}
        if way in ("reference", "agreement") and item.kind in ("format", "programs"):
            return None  # answers of this kind have no result to compare
        if way == "reward":
            return await reward(recorder, member, **shown)
        if way in ("logprob", "information"):
            prompts = [item.instruction] + (["Write something."] if way == "information" else [])
            calls = [
                member.call(prompt, Likelihood(response), role="reviewer", candidate=recorder.candidate)
                for prompt in prompts
            ]
            given = await together(*(recorder.ask(call) for call in calls))
            if way == "logprob":
                return float(given[0].value["logprob"] / max(1.0, given[0].value["tokens"]))
            return float(given[0].value["logprob"] - given[1].value["logprob"])
        if way in ("yes_no", "correctness"):
            asked = SCORE_QUESTIONS if way == "yes_no" else {way: SCORE_QUESTIONS[way]}
            said = await yes_probabilities(recorder, member, "score_yes_no", asked, role="reviewer", **shown)
            return fmean(said.values())
        if way == "reference":
            own = await self.answer(who, item, 1, recorder)  # the first of those that agreement asks for
            prompt = _REFERENCE.format(reference=own, **shown)
            said = (
                await recorder.ask(member.call(prompt, YES_NO, role="reviewer", candidate=recorder.candidate))
            ).value
            return float(said["yes"] / (said["yes"] + said["no"]))
        final = item.final(response)
        others = [item.final(text) for text in await self.further(who, item, recorder)]
        return fmean(float(final is not None and o is not None and item.agree(final, o)) for o in others or [None])


async def ask_all(
    half: str,
    counts: Mapping[str, int],
    data: Path,
    out: Path,
    authors: Sequence[str],
    models: Sequence[str],
    memory_gb: float | None,
    trained: Mapping[str, Path] = MappingProxyType({}),
    weights: str | None = None,
) -> None:
    """Answer and score one half, and write one JSON file."""
    writing = {*models, *authors}
    committee = {
        f"{who}-{kind}": {"model": model, "sampling": {"temperature": 0.7, "top_p": 1.0, "max_tokens": tokens}}
        for who, (model, _) in MODELS.items()
        for kind, tokens in MAX_TOKENS.items()
        if who in writing
    }
    ways: dict[str, Sequence[str]] = {who: WAYS[who] for who in models}
    if adapter := trained.get("critic"):
        committee |= {f"critic-{kind}": {"model": MODELS["critic"][0], "adapter": str(adapter)} for kind in MAX_TOKENS}
        ways["critic"] = ("correctness",)
    if folder := trained.get("reward"):
        judge = {"model": str(folder), "ask": "reward", "roles": ["reviewer"]}
        committee |= {f"reward-{kind}": judge for kind in MAX_TOKENS}
        ways["reward"] = ("reward",)
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "review-truth",
            "seeds": {"source": "-"},
            "committee": {"models": committee, "reviewers": 0},
            "review": {"control_items": 8 if "reward" in trained else 0},  # a recipe has to scale its rewards
            "engine": {
                "max_model_len": 2048,
                "concurrency": 32,
                "kv_cache_gb": 0.6,
                "memory_gb": memory_gb,
                "weights": weights,
            },
        }
    )
    view = View()
    registry = find_models([recipe], view)
    members = {
        name: make_member(
            name,
            MemberConfig.model_validate(each),
            ReviewConfig(),
            registry.model_id(each["model"], each.get("adapter")),
        )
        for name, each in committee.items()
    }
    ledger = Ledger(out / "ledger.sqlite", run="review-truth")
    file = out / f"{half}.json"
    before = json.loads(file.read_text())["rows"] if file.is_file() else []
    rows = [row for row in before if row["kind"] not in counts or row["author"] not in authors]
    async with running(registry.pool(out / "logs"), view) as pool:
        asking = Asking(Broker(ledger, pool, call_timeout_s=3600.0), members)
        for kind, count in counts.items():
            found = await together(
                *(
                    _row(asking, author, item, kind, ways)
                    for author in authors
                    for item in items(kind, half, count, data)
                )
            )
            rows += [row for row in found if row is not None]
            view.note(f"{half} {kind}: {sum(row['right'] for row in found if row)} right of {len(found)}")
            write_json(file, {"half": half, "rows": rows, "environment": environment()})
    ledger.close()


# What each model is asked. Release 0.1 asks `yes_no` of the 0.5B model and `information` of both small ones.
WAYS = {
    "1.5b": ("logprob", "information", "correctness", "reference", "agreement"),
    "0.5b": ("logprob", "information", "yes_no", "correctness", "reference", "agreement"),
    "135m": ("logprob", "information"),
}


FACTS = ("facts", "own_facts")
# Here the 0.5B model's own answers hardly separate right from wrong, so the costly ones are asked for on facts only.
ON_FACTS = (("0.5b", "reference"), ("0.5b", "agreement"))


async def _row(
    asking: Asking, author: str, item: TruthItem, kind: str, ways: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    name = f"{kind}-{item.id}-{author}"
    try:
        response = await asking.answer(author, item, 0, CallRecorder(asking.broker, name))
    except Unanswered:
        return None
    if not response:
        return None
    right = await asyncio.to_thread(item.is_right, response)
    asked = [(who, way) for who, named in ways.items() for way in named if kind in FACTS or (who, way) not in ON_FACTS]
    scores = await together(*(asking.score(way, who, item, response, f"{name}-{who}-{way}") for who, way in asked))
    found = {f"{who} {way}": each for (who, way), each in zip(asked, scores, strict=True) if each is not None}
    if "1.5b agreement" in found:
        others = [item.final(text) for text in await asking.further("1.5b", item, CallRecorder(asking.broker, name))]
        final = item.final(response)
        for count in (1, 2):  # fewer further answers of the same
            same = [
                float(final is not None and o is not None and item.agree(final, o)) for o in others[:count] or [None]
            ]
            found[f"1.5b agreement of {count}"] = (fmean(same), found["1.5b agreement"][1] * count / FURTHER)
    return {
        "kind": kind, "item": item.id, "author": author, "right": right, "length": len(response), "response": response,
        "instruction": item.instruction, "more": await _more(asking, author, item, kind, name, ways),
        "scores": {name: value for name, (value, _) in found.items()},
        "costs": {name: cost for name, (_, cost) in found.items()},
    }  # fmt: skip


async def _more(
    asking: Asking, author: str, item: TruthItem, kind: str, name: str, ways: Mapping[str, Sequence[str]]
) -> list[tuple[str, bool]]:
    """Return the author's further answers with their verdicts, where agreement asked for them anyway."""
    unused = author not in ways or (kind not in FACTS and (author, "agreement") in ON_FACTS)
    if unused or kind in ("format", "programs"):
        return []
    texts = await asking.further(author, item, CallRecorder(asking.broker, name))
    return [(text, await asyncio.to_thread(item.is_right, text)) for text in texts]


def members_of(names: str) -> list[str]:
    """Return the members that an option names, with commas between them."""
    found = [name for name in names.split(",") if name]
    if unknown := [name for name in found if name not in WAYS]:
        raise typer.BadParameter(f"there is no member `{unknown[0]}`; there are {', '.join(WAYS)}")
    return found


@app.command()
def critic(out: Annotated[Path, typer.Option(help="what `ask` wrote")], seed: int = 0, most: int = 600) -> None:
    """Write training rows for a critic from the half `choose`: as many right as wrong answers of each kind."""
    rows = json.loads((out / "choose.json").read_text())["rows"]
    drawn: list[ControlItem] = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        answers: dict[bool, list[ControlItem]] = {True: [], False: []}
        for row in rows:
            for place, (text, right) in enumerate([(row["response"], row["right"]), *row["more"]]):
                label = ControlKind.RIGHT_ANSWER if right else ControlKind.WRONG_ANSWER
                if row["kind"] == kind:
                    found = ControlItem(label, f"{kind}-{row['item']}-{place}", row["instruction"], text)
                    answers[right].append(found)
        for found in answers.values():
            random.Random(seed).shuffle(found)
            drawn += found[: min(map(len, answers.values()))]
    random.Random(seed).shuffle(drawn)
    path = export_control_items(out, critic_rows(drawn[:most], {}))
    typer.echo(f"{min(len(drawn), most)} rows: {path}")


@app.command()
def pairs(out: Annotated[Path, typer.Option(help="what `ask` wrote")], seed: int = 0, most: int = 200) -> None:
    """Write preference pairs for a reward model from the half `choose`: a right and a wrong answer to one question."""
    found = []
    for row in json.loads((out / "choose.json").read_text())["rows"]:
        answers = dict([(row["response"], row["right"]), *row["more"]])
        chosen, rejected = ([text for text, right in answers.items() if right is verdict] for verdict in (True, False))
        found += [(row["instruction"], good, bad) for good in chosen for bad in rejected]
    random.Random(seed).shuffle(found)
    rows = [
        {
            "prompt": [{"role": "user", "content": instruction}],
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": bad}],
        }
        for instruction, good, bad in found[:most]
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "preferences.parquet")
    typer.echo(f"{len(rows)} pairs: {out / 'preferences.parquet'}")


@app.command()
def ask(
    data_dir: Annotated[Path, typer.Option(help="a folder with the benchmark files")],
    out: Annotated[Path, typer.Option(help="where ledger and scores go")],
    half: Annotated[str, typer.Option(help="choose or report")] = "choose",
    count: Annotated[int, typer.Option(help="items a kind, where `kinds` says no other number")] = 60,
    kinds: Annotated[str, typer.Option(help="kinds with commas, such as facts:100,sums:60")] = ",".join(KINDS),
    authors: Annotated[str, typer.Option(help="models that answer, with commas")] = "1.5b,0.5b",
    memory_gb: Annotated[float | None, typer.Option(help="of all models together; few GB let them take turns")] = None,
    critic: Annotated[Path | None, typer.Option(help="the adapter of a critic, trained on what `critic` wrote")] = None,
    reward: Annotated[Path | None, typer.Option(help="a reward model, trained on what `pairs` wrote")] = None,
    models: Annotated[str, typer.Option(help="models that score, with commas; may be empty")] = ",".join(WAYS),
    weights: Annotated[str | None, typer.Option(help="int8: 8-bit weights on a CPU")] = None,
) -> None:
    """Have members answer the items, and score every answer in every way."""
    out.mkdir(parents=True, exist_ok=True)
    counts = {kind: int(number or count) for kind, _, number in (each.partition(":") for each in kinds.split(","))}
    scoring, writing = (members_of(names) for names in (models, authors))
    trained = {name: path for name, path in (("critic", critic), ("reward", reward)) if path is not None}
    asyncio.run(ask_all(half, counts, data_dir, out, writing, scoring, memory_gb, trained, weights))


@app.command()
def table(out: Annotated[Path, typer.Option(help="what `ask` wrote")]) -> None:
    """Print the tables and write them as JSON."""
    halves = {
        h: json.loads((out / f"{h}.json").read_text())["rows"]
        for h in ("choose", "report")
        if (out / f"{h}.json").is_file()
    }
    write_json(out / "table.json", print_tables(halves))


if __name__ == "__main__":
    app()
