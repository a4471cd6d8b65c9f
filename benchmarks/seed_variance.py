"""Measure false alarms and power of comparisons between arms with several training seeds.

Run as: python benchmarks/seed_variance.py [--trials 4000] [--gain 0.05] [--json FILE]

Two arms answer the same items, right or wrong. An item has a chance of its own, which both arms share; `own` is how far
an arm's chance may lie from it. Each training seed moves all chances of its arm by a normal shift of standard deviation
`spread`. Two rules stand beside the one in use: `before` is that of version 0.1, which added the variance of the seeds'
means to the error between items; `ignored` leaves the seeds out. The last rows have arms whose seeds vary unalike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.stats.paired import Estimate, paired_difference
from gra.stats.seeds import with_seed_variance

ITEMS = (40, 120, 400)
SEEDS = (2, 3, 5)
SPREADS = (0.0, 0.02, 0.05, 0.1, 0.2)
OWN = (0.0, 0.3)
UNALIKE = ((0.0, 0.1), (0.05, 0.1))


def added_twice(estimate: Estimate, *arms: NDArray[np.float64]) -> Estimate:
    """Add the variance of the seeds' means, as version 0.1 did."""
    parts = [(estimate.se**2, estimate.df)]
    parts += [(float(arm.mean(axis=1).var(ddof=1)) / len(arm), len(arm) - 1) for arm in arms]
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / df for variance, df in parts)
    return Estimate(estimate.value, math.sqrt(total), total**2 / spread if spread else math.inf)


def draw(
    rng: np.random.Generator, items: int, seeds: int, spreads: tuple[float, float], own: float, gain: float
) -> list[NDArray[np.float64]]:
    """Draw the scores of both arms, each of shape [seeds, items]; the first is better by `gain`."""
    chance = 0.35 + 0.3 * rng.random(items)
    arms = []
    for spread, better in zip(spreads, (gain, 0.0), strict=True):
        shift = rng.normal(0, spread, (seeds, 1)) + rng.uniform(-own, own, items) + better
        arms.append((rng.random((seeds, items)) < np.clip(chance + shift, 0, 1)).astype(np.float64))
    return arms


def rates(
    rng: np.random.Generator, trials: int, items: int, seeds: int, spreads: tuple[float, float], own: float, gain: float
) -> dict[str, float]:
    """Return how often each rule finds a difference at the 5 % level."""
    found = {"new": 0, "old": 0, "ignored": 0}
    for _ in range(trials):
        ours, theirs = draw(rng, items, seeds, spreads, own, gain)
        between_items = paired_difference(ours.mean(axis=0), theirs.mean(axis=0), bounded=True, answers=seeds)
        found["new"] += with_seed_variance(between_items, ours, theirs).p_value() <= 0.05
        found["old"] += added_twice(between_items, ours, theirs).p_value() <= 0.05
        found["ignored"] += between_items.p_value() <= 0.05
    return {rule: count / trials for rule, count in found.items()}


def cells() -> Iterator[dict[str, Any]]:
    """Yield the settings of the grid."""
    for own in OWN:
        for seeds in SEEDS:
            for items in ITEMS:
                for spread in SPREADS:
                    yield {"items": items, "seeds": seeds, "spreads": (spread, spread), "own": own}
    for spreads in UNALIKE:
        for seeds in SEEDS:
            yield {"items": 120, "seeds": seeds, "spreads": spreads, "own": 0.3}


def main(
    trials: int = 4000,
    gain: float = 0.05,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Simulate the grid and print one row a setting."""
    rng, rows = np.random.default_rng(20), []
    print(f"| own | seeds | items | spread | false alarms | before | ignored | power at {gain:g} | before |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cell in cells():
        alarms, power = rates(rng, trials, gain=0.0, **cell), rates(rng, max(1, trials // 4), gain=gain, **cell)
        rows.append({**cell, "false_alarms": alarms, "power": power})
        shown = (*alarms.values(), power["new"], power["old"])
        figures = " | ".join(f"{100 * rate:.1f} %" for rate in shown)
        spread = " and ".join(f"{spread:g}" for spread in dict.fromkeys(cell["spreads"]))
        print(f"| {cell['own']} | {cell['seeds']} | {cell['items']} | {spread} | {figures} |", flush=True)
    if json_file:
        write_json(json_file, {"trials": trials, "gain": gain, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
