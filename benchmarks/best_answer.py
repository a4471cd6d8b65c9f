"""Measure how the best of several answers is found, on items whose answers a program knows.

Run as: python benchmarks/review_truth.py ask --half report --kinds facts:120,sums:60 --data-dir DATA/bench --out truth/
        python benchmarks/best_answer.py ask --data-dir DATA/bench --out truth/

Each item has four answers of the 1.5B model, which `review_truth.py` recorded. The table shows the share of right
answers that each strategy takes, less that of a random answer:

    logprob      the mean log-probability of the answer's tokens
    agreement    how far the other three agree with it
    both         the sum of their ranks
    pairwise     `best_by: pairwise`: the 1.5B model compares all pairs, each in both orders
    oracle       a right one, wherever there is one
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from review_truth import MODELS
from scipy.stats import rankdata
from truth_items import MAX_TOKENS, TruthItem, items

from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.processes.concurrency import together
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.core.types import Usage
from gra.engines.broker import Broker
from gra.ledger.ledger import Ledger
from gra.serving.models import find_models, running
from gra.stats.paired import paired_bootstrap
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.committee.pairwise import compare_responses
from gra.synthesis.committee.reviewer import mean_logprob

ANSWERS = 4
MODEL, BILLIONS = MODELS["1.5b"]
app = typer.Typer(help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Measure how the best of several answers is found."""


async def _strategies(broker: Broker, member: Member, item: TruthItem, answers: list[tuple[str, bool]]) -> Any:
    """Return which answer each strategy takes, the verdicts, and what comparisons cost."""
    texts, right = [text for text, _ in answers], [verdict for _, verdict in answers]
    asking = CallRecorder(broker, f"best-{item.kind}-{item.id}")
    table, logprobs = await together(
        compare_responses(asking, [member], item.instruction, texts),
        together(*(mean_logprob(asking, member, item.instruction, text) for text in texts)),
    )
    finals = [item.final(text) for text in texts]
    agreed = [
        fmean(
            float(own is not None and other is not None and item.agree(own, other))
            for place, other in enumerate(finals)
            if place != at
        )
        for at, own in enumerate(finals)
    ]
    ranks = [rankdata(values) for values in (logprobs, agreed)]  # equal ones share their mean rank
    scores = {
        "logprob": logprobs,
        "agreement": agreed,
        "both": list(ranks[0] + ranks[1]),
        "pairwise": [sum(row) for row in table],
        "oracle": [float(verdict) for verdict in right],
    }
    spent = sum(asking.usage.values(), Usage())
    taken = {name: right[int(np.argmax(values))] for name, values in scores.items()}
    return {"kind": item.kind, "random": fmean(right), "tokens": spent.prompt_tokens, "taken": taken}


async def ask_all(data: Path, out: Path, memory_gb: float | None) -> list[dict[str, Any]]:
    """Compare the recorded answers of every item that has right and wrong ones."""
    recorded = {
        (row["kind"], row["item"]): [(row["response"], row["right"]), *map(tuple, row["more"])][:ANSWERS]
        for row in json.loads((out / "report.json").read_text())["rows"]
        if row["author"] == "1.5b" and len(row["more"]) >= ANSWERS - 1
    }
    kinds = list(dict.fromkeys(kind for kind, _ in recorded))
    committee = {
        kind: {"model": MODEL, "sampling": {"temperature": 0.7, "top_p": 1.0, "max_tokens": MAX_TOKENS[kind]}}
        for kind in kinds
    }
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "best-answer",
            "seeds": {"source": "-"},
            "committee": {"models": committee, "reviewers": 0},
            "engine": {"max_model_len": 2048, "concurrency": 32, "kv_cache_gb": 0.6, "memory_gb": memory_gb},
        }
    )
    view = View()
    registry = find_models([recipe], view)
    members = {
        kind: make_member(kind, MemberConfig.model_validate(each), ReviewConfig(), registry.model_id(MODEL))
        for kind, each in committee.items()
    }
    ledger = Ledger(out / "ledger.sqlite", run="best-answer")
    asked = [
        (item, recorded[kind, item.id])
        for kind in kinds
        for item in items(kind, "report", 100_000, data)
        if (kind, item.id) in recorded
    ]
    same = [_unmixed(item, answers) for item, answers in asked if len({right for _, right in answers}) == 1]
    async with running(registry.pool(out / "logs"), view) as pool:
        broker = Broker(ledger, pool, call_timeout_s=3600.0)
        found = await together(
            *(
                _strategies(broker, members[item.kind], item, answers)
                for item, answers in asked
                if len({right for _, right in answers}) > 1
            )
        )
    ledger.close()
    return [*found, *same]


def _unmixed(item: TruthItem, answers: list[tuple[str, bool]]) -> dict[str, Any]:
    """Return the row of an item whose answers are all right or all wrong: every strategy takes the same."""
    return {"kind": item.kind, "random": float(answers[0][1]), "tokens": 0, "taken": {}}


def print_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the gain of each strategy over a random answer, by kind, and return the figures."""
    figures: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        mixed = [row for row in own if row["taken"]]
        base = fmean(row["random"] for row in own)
        print(f"\n{kind}: {len(own)} items, {len(mixed)} with right and wrong answers; a random answer: {base:.0%}")
        print("| strategy | right | over a random answer, points |\n|---|---|---|")
        figures[kind] = {"items": len(own), "mixed": len(mixed), "random": base, "strategies": {}}
        for name in mixed[0]["taken"] if mixed else ():
            ours, random = zip(*((row["taken"].get(name, row["random"]), row["random"]) for row in own), strict=True)
            low, high = paired_bootstrap(ours, random)
            gain = fmean(ours) - base
            print(f"| {name} | {base + gain:.0%} | {100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] |")
            figures[kind]["strategies"][name] = {"gain": gain, "low": low, "high": high}
        if mixed:
            tokens = fmean(row["tokens"] for row in mixed)
            print(f"comparisons and likelihoods: {tokens * BILLIONS:.0f} tokens x 10^9 parameters an item")
            figures[kind]["cost"] = tokens * BILLIONS
    return figures


@app.command()
def ask(
    data_dir: Annotated[Path, typer.Option(help="a folder with the benchmark files")],
    out: Annotated[Path, typer.Option(help="what `review_truth.py ask` wrote; ledger and figures go there, too")],
    memory_gb: Annotated[float | None, typer.Option(help="of all models together")] = None,
) -> None:
    """Compare recorded answers, print the table, and write it as JSON."""
    rows = asyncio.run(ask_all(data_dir, out, memory_gb))
    figures = print_table(rows)
    write_json(out / "best_answer.json", {"rows": rows, "figures": figures, "environment": environment()})


if __name__ == "__main__":
    app()
