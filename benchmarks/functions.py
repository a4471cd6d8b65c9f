"""Measure functions that members write for `{kind: functions}`: the label model against the best function and majority.

Run as: python benchmarks/functions.py --out FOLDER --allow-code-execution [--draws 4] [--seeds FILE]

The 0.5B and the 1.5B model write functions for each domain of the seeds. One half of the control items chooses them.
The other half measures: AUC over the held-out items of all domains, with 95 % bootstrap intervals over items. Where all
functions abstain, or none was kept, the score is one half. The best function of a domain is the best on the first half.
Functions run in the sandbox only. Keeps a ledger, so a stopped benchmark goes on where it was. Prints a table and
writes FOLDER/functions.json.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import DOMAINS, SynthesisRecipe
from gra.core.files import write_json
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.data.seeds.load import load_seeds
from gra.engines.broker import Broker
from gra.ledger.ledger import Ledger
from gra.sandbox.job import Limits
from gra.sandbox.permission import FLAG, Permission
from gra.sandbox.sandbox import Sandbox
from gra.serving.models import find_models, running
from gra.stats.reliability import auc
from gra.synthesis.committee.functions import collect_votes, fit_functions, score_ways, write_functions
from gra.synthesis.committee.members import make_member
from gra.synthesis.measuring.functions import plan_function_items

SEEDS = Path(__file__).parents[1] / "recipes" / "seeds" / "quickstart.jsonl"
SAMPLING = {"temperature": 0.8, "top_p": 1.0, "max_tokens": 256}
MEMBERS = {name: {"model": f"qwen2.5-coder-{name}-instruct", "roles": ["generator"], "sampling": SAMPLING}
           for name in ("0.5b", "1.5b")}  # fmt: skip


async def ask(out: Path, seeds_file: Path, draws: int, memory_gb: float | None) -> dict[str, Any]:
    """Have functions written and judge the held-out items; scores by way, over all domains."""
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "functions", "seeds": {"source": "-"}, "committee": {"models": MEMBERS, "reviewers": 0},
            "engine": {"max_model_len": 2048, "concurrency": 32, "kv_cache_gb": 0.5, "memory_gb": memory_gb},
        }
    )  # fmt: skip
    view, seeds = View(), load_seeds(seeds_file, list(DOMAINS)).rows
    registry = find_models([recipe], view)
    members = [
        make_member(name, MemberConfig.model_validate(each), ReviewConfig(), registry.model_id(str(each["model"])))
        for name, each in MEMBERS.items()
    ]
    sandbox, ledger = Sandbox(Permission(FLAG), Limits(cpu_s=2)), Ledger(out / "ledger.sqlite", run="functions")
    free = asyncio.Semaphore(sandbox.workers)
    scores: dict[str, list[float]] = {"label_model": [], "majority": [], "best_function": []}
    good, facts = [], {}
    async with running(registry.pool(out / "logs"), view) as pool:
        for domain in dict.fromkeys(seed.domain for seed in seeds):
            plan = plan_function_items(seeds, domain, 0)
            written = await write_functions(
                Broker(ledger, pool, call_timeout_s=3600.0), members, domain, plan.shown, draws
            )
            votes = await collect_votes(sandbox, free, written, plan.texts)
            panel = fit_functions(written, votes, plan.good, plan.held)
            facts[domain] = panel.facts | {"code": {function.name: function.code for function in panel.functions}}
            view.note(f"{domain}: {panel.facts}")
            kept = votes[[written.index(function) for function in panel.functions]][:, plan.held]
            good += plan.good[plan.held].tolist()
            ways = score_ways(panel.model, kept) if panel.model is not None else {}
            for name, each in scores.items():
                each += ways[name].tolist() if ways else [0.5] * int(plan.held.sum())
    ledger.close()
    return {"good": good, "scores": scores, "facts": facts}


def table(found: dict[str, Any], draws: int = 1000) -> list[str]:
    """Return the lines of the table: AUC of each way, and the label model's gain over the others."""
    truth = np.array(found["good"], bool)
    scores = {name: np.array(each) for name, each in found["scores"].items()}
    random = np.random.default_rng(0)
    right, wrong = np.flatnonzero(truth), np.flatnonzero(~truth)
    samples = [(random.choice(right, len(right)), random.choice(wrong, len(wrong))) for _ in range(draws)]
    drawn = {name: np.array([auc(each[g], each[b]) for g, b in samples]) for name, each in scores.items()}
    lines = ["| way | AUC | 95 % | label model - it |", "|---|---|---|---|"]
    for name, each in scores.items():
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        gain = drawn["label_model"] - drawn[name]
        less = auc(scores["label_model"][truth], scores["label_model"][~truth]) - auc(each[truth], each[~truth])
        shown = f"{less:+.3f} [{np.percentile(gain, 2.5):+.3f}, {np.percentile(gain, 97.5):+.3f}]"
        lines.append(f"| {name} | {auc(each[truth], each[~truth]):.3f} | {low:.3f}-{high:.3f} | {shown} |")
    kept = sum(facts["kept"] for facts in found["facts"].values())
    written = sum(facts["written"] for facts in found["facts"].values())
    return [*lines, f"{len(truth)} held-out items, {written} functions written, {kept} kept"]


def main(
    out: Annotated[Path, typer.Option()] = Path("functions"),
    draws: Annotated[int, typer.Option(help="functions of each member for a domain")] = 4,
    seeds: Annotated[Path, typer.Option(help="a seed file")] = SEEDS,
    memory_gb: Annotated[float | None, typer.Option()] = None,
    allow_code_execution: Annotated[bool, typer.Option(FLAG)] = False,
) -> None:
    """Write functions, measure them, and print the table."""
    if not allow_code_execution:
        sys.exit(f"functions that models write are run in the sandbox; add {FLAG} if you accept that")
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    found = asyncio.run(ask(out, seeds, draws, memory_gb))
    print("\n".join(table(found)))
    seconds = round(time.monotonic() - begun, 1)
    print(f"{seconds:.0f} s with engine start-up")
    write_json(out / "functions.json", found | {"seconds": seconds, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
