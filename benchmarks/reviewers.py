"""How well small models tell an answer from another question's answer, by the way they are asked.

Run as: python benchmarks/reviewers.py MODEL [MODEL ...] [--asks yes_no,likelihood] [--pairs 28] [--json FILE]

Seeds are planted with their own response (good), with that of another seed of the same domain (mismatched)
and with the first third of their own (cut off). AUC is the probability that a good one scores higher.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.console import View
from gra.core.ledger import Ledger
from gra.core.manifest import environment, write_json
from gra.core.records import Seed
from gra.core.schema import DOMAINS, Engine, Review, SynthesisRecipe
from gra.core.schema import Member as MemberRecipe
from gra.data.seeds import load_seeds
from gra.engines.broker import Broker
from gra.review_stats.reliability import auc
from gra.synthesis.committee import Member, make_member
from gra.synthesis.notebook import Notebook, Unanswered
from gra.synthesis.probes import plant
from gra.synthesis.reviewer import score_response
from gra.synthesis.story import trust
from gra.synthesis.workshop import find_models, running


async def scores(broker: Broker, member: Member, pairs: list[tuple[Seed, str]], kind: str) -> list[float]:
    """Raw mean score of each pair; an answer that could not be used ends the measurement of this way of asking."""

    async def one(seed: Seed, response: str) -> float:
        notebook = Notebook(broker, f"{kind}-{seed.id}")
        review = await score_response(notebook, member, seed.instruction, response, comment=False, calibrate=trust)
        return review.raw

    return list(await asyncio.gather(*(one(seed, response) for seed, response in pairs)))


async def measure(models: list[str], asks: list[str], pairs: int, folder: Path) -> list[dict[str, Any]]:
    """One row a model and way of asking."""
    view = View()
    seeds = load_seeds(Path("recipes/seeds/quickstart.jsonl"), DOMAINS).rows
    engine = Engine(max_model_len=2048, concurrency=32, kv_cache_gb=0.5)
    recipes = [
        SynthesisRecipe.model_validate(
            {
                "name": m,
                "arm": "distilled",
                "seeds": {"source": "-"},
                "teacher": {"model": m},
                "engine": engine.model_dump(),
            }
        )
        for m in models
    ]
    workshop = find_models(recipes, view)
    ledger = Ledger(folder / "ledger.sqlite", run="reviewers")
    planted = plant(seeds, pairs, seed=0)
    own = [(seed, seed.response) for seed, _ in planted]
    cut = [(seed, " ".join(seed.response.split()[: max(1, len(seed.response.split()) // 3)])) for seed, _ in planted]
    rows = []
    async with running(workshop.pool(folder), view) as pool:
        broker = Broker(ledger, pool)
        for model in models:
            for ask in asks:
                recipe = MemberRecipe.model_validate({"model": model, "ask": ask, "sampling": {"max_tokens": 200}})
                member = make_member(f"{model}:{ask}", recipe, Review(), workshop.model_id(model))
                begun = time.monotonic()
                try:
                    good, bad, part = [
                        await scores(broker, member, p, k) for p, k in ((own, "own"), (planted, "bad"), (cut, "cut"))
                    ]
                except Unanswered as gap:
                    rows.append({"model": model, "ask": ask, "failed": str(gap)})
                    continue
                seconds = (time.monotonic() - begun) / (3 * len(planted))
                row = {"model": model, "ask": ask, "auc_mismatched": auc(good, bad), "auc_cut": auc(good, part)}
                rows.append(row | {"seconds_per_review": seconds, "good": good, "mismatched": bad, "cut": part})
    ledger.close()
    return rows


def main(
    models: list[str],
    asks: str = "integers,expected,yes_no,likelihood",
    pairs: int = 28,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(models, asks.split(","), pairs, Path(folder)))
    print("| model | asked | AUC mismatched | AUC cut off | s/review |\n|---|---|---|---|---|")
    for row in rows:
        if "failed" in row:
            print(f"| {row['model']} | {row['ask']} | {row['failed']} | | |")
        else:
            figures = f"{row['auc_mismatched']:.2f} | {row['auc_cut']:.2f} | {row['seconds_per_review']:.2f}"
            print(f"| {row['model']} | {row['ask']} | {figures} |")
    if json_file:
        write_json(json_file, {"pairs": pairs, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
