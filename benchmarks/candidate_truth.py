"""Measure reviewers on a committee's own candidates: which scores separate right answers from wrong ones?

Run as: python benchmarks/candidate_truth.py [FILE] [--json FILE]

Control questions have short answers, and wrong ones are often easy to see. What a generator writes is different. FILE
has a line for each candidate that reached reviewers: its run, domain, request and answer, raw scores by reviewer, the
panel's score, and two blind marks (is the request good, is the answer right?). Prints for each score its AUROC with a
95 % bootstrap interval over candidates, the difference to the panel's, and the share of right answers in the third
that it likes best. A mark of two readings that differ counts as half right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.stats import rankdata

from gra.core.files import write_json

FILE = Path(__file__).parents[1] / "examples" / "datasets" / "candidates" / "candidates.jsonl"
OPEN = frozenset({"coding", "role-play", "language", "creation"})
DRAWS = 2000
Row = dict[str, Any]
Numbers = NDArray[np.float64]


def right(row: Row) -> float:
    """Return the share of readings that call the answer right."""
    return fmean(float(mark["right"]) for mark in row["marks"])


def auroc(scores: Numbers, share: Numbers) -> float:
    """Return how often a right answer has the higher score; a mark of one half counts on both sides."""
    above = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    weight = share[:, None] * (1 - share[None, :])
    np.fill_diagonal(weight, 0.0)
    return float((above * weight).sum() / weight.sum()) if weight.sum() else float("nan")


def measure(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any] | None:
    """Measure one score, or the mean rank of several, on the candidates that have all of them and the panel's."""
    used = [row for row in rows if all(name in row["scores"] for name in (*names, "panel"))]
    if len(used) < 10:
        return None
    share = np.array([right(row) for row in used])
    scores = np.mean([rankdata([row["scores"][name] for row in used]) for name in names], axis=0)
    panel = np.array([row["scores"]["panel"] for row in used], float)
    random, values, gains = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        drawn = random.integers(0, len(used), len(used))
        values.append(auroc(scores[drawn], share[drawn]))
        gains.append(values[-1] - auroc(panel[drawn], share[drawn]))
    best = np.argsort(-scores, kind="stable")[: max(1, len(used) // 3)]
    return {
        "score": " and ".join(names),
        "candidates": len(used),
        "right": float(share.mean()),
        "auroc": [auroc(scores, share), *np.nanpercentile(values, [2.5, 97.5]).tolist()],
        "gain": [auroc(scores, share) - auroc(panel, share), *np.nanpercentile(gains, [2.5, 97.5]).tolist()],
        "right_in_best_third": float(share[best].mean()),
    }


def main(
    file: Annotated[Path, typer.Argument()] = FILE,
    out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table."""
    rows: list[Row] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    agreed = fmean(float(len({mark["right"] for mark in row["marks"]}) == 1) for row in rows)
    print(f"{len(rows)} candidates; the readings agree on {agreed:.0%} of the answers\n")
    print("| run | domains | score | candidates | right | AUROC | - panel | right in the best third |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for run in (*dict.fromkeys(row["run"] for row in rows), "all"):
        for kind in ("closed", "open"):
            chosen = [r for r in rows if run in (r["run"], "all") and (r["domain"] in OPEN) == (kind == "open")]
            alone = sorted({name for row in chosen for name in row["scores"]} - {"panel"})
            for names in (("panel",), *((name,) for name in alone), ("critic", "likely")):
                if (facts := measure(chosen, names)) is None:
                    continue
                found.append({"run": run, "domains": kind} | facts)
                shown = [f"{facts[key][0]:.2f} [{facts[key][1]:.2f}, {facts[key][2]:.2f}]" for key in ("auroc", "gain")]
                print(
                    f"| {run} | {kind} | {facts['score']} | {facts['candidates']} | {facts['right']:.0%} | {shown[0]} "
                    f"| {shown[1]} | {facts['right_in_best_third']:.0%} |"
                )
    if out is not None:
        write_json(out, {"agreement": agreed, "scores": found})


if __name__ == "__main__":
    typer.run(main)
