"""Compare six questions of a review with one, on the recorded control items of a finished run.

Run as: python benchmarks/reviewer_questions.py RUN [RUN ...] [--json FILE]

RUN is a run folder whose `yes_no` members were measured on control items (`review.control_items`); no model is asked.
For every model it shows an AUC: of the mean of all six questions, of their mean log-odds, of each question alone. It
also shows the tokens read without the cache, for the first question and for all six.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.core.types import DIMENSIONS
from gra.stats.reliability import auc
from gra.synthesis.call_names import control_item_name
from gra.synthesis.prompts import SCORE_QUESTIONS

Review = dict[str, tuple[float, int]]  # by question: probability of "yes", tokens read that were not in the cache


def reviews(ledger: Path) -> dict[str, dict[str, Review]]:
    """Return each model's answers on each control item."""
    said: dict[str, dict[str, Review]] = defaultdict(lambda: defaultdict(dict))
    query = "SELECT model, candidate, request, scores, prompt_tokens - cached_tokens FROM calls WHERE candidate LIKE ?"
    with sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True) as database:
        for model, candidate, request, scores, tokens in database.execute(query, ("probe-%",)):
            question, weights = json.loads(request)["messages"][-1][1], json.loads(scores)
            for name in DIMENSIONS:
                if SCORE_QUESTIONS[name] in question and set(weights) == {"yes", "no"}:
                    said[model][candidate][name] = weights["yes"] / (weights["yes"] + weights["no"]), tokens
    return said


def figures(said: Mapping[str, Review]) -> dict[str, Any]:
    """Return the AUC of the mean and of each question and their costs, over control items with all six answers."""
    whole = {name: review for name, review in said.items() if len(review) == len(DIMENSIONS)}
    good = [review for name, review in whole.items() if name.startswith(control_item_name("good", ""))]
    bad = [review for name, review in whole.items() if name.startswith(control_item_name("bad", ""))]

    def apart(*questions: str) -> float:
        means = [[fmean(review[q][0] for q in questions) for review in group] for group in (good, bad)]
        return auc(*means)

    def odds(review: Review) -> float:
        return fmean(math.log(max(yes, 1e-9) / max(1 - yes, 1e-9)) for yes, _ in review.values())

    return {
        "good": len(good),
        "bad": len(bad),
        "all six": apart(*DIMENSIONS),
        "log-odds": auc([odds(review) for review in good], [odds(review) for review in bad]),
        **{name: apart(name) for name in DIMENSIONS},
        "tokens_first": fmean(review[DIMENSIONS[0]][1] for review in whole.values()),
        "tokens_all": fmean(sum(tokens for _, tokens in review.values()) for review in whole.values()),
    }


def main(runs: list[Path], json_file: Annotated[Path | None, typer.Option("--json")] = None) -> None:
    """Read and print one table."""
    print(f"| run | model | pairs | all six | log-odds | {' | '.join(DIMENSIONS)} | tokens: the first, all six |")
    print("|---|---|---|---|" + "---|" * (len(DIMENSIONS) + 2))
    found = []
    for run in runs:
        for model, said in reviews(run / "ledger.sqlite").items():
            row = figures(said)
            found.append({"run": run.name, "model": model} | row)
            cells = [f"{row[name]:.2f}" for name in ("all six", "log-odds", *DIMENSIONS)]
            print(f"| {run.name} | {model} | {row['good']} | {' | '.join(cells)} | ", end="")
            print(f"{row['tokens_first']:.0f}, {row['tokens_all']:.0f} |")
    if json_file:
        write_json(json_file, {"rows": found})


if __name__ == "__main__":
    typer.run(main)
