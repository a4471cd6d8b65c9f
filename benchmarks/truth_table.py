"""Tables of `review_truth.py`: how well each way of scoring, and each combination, tells right from wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gra.stats.aggregation import fit_weights
from gra.stats.reliability import auc

Row = Mapping[str, Any]
_DRAWS = 400


def print_tables(halves: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Print one table a kind and author of the last half, and return the figures."""
    report = halves.get("report") or halves["choose"]
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in report):
        for author in dict.fromkeys(row["author"] for row in report):
            rows = [row for row in report if row["kind"] == kind and row["author"] == author]
            base = float(np.mean([row["right"] for row in rows])) if rows else 0.0
            print(f"\n{kind}, answers by {author}: {len(rows)} answers, {base:.0%} right")
            if not 0 < base < 1:
                continue
            scores = _single(rows)
            if "choose" in halves and "report" in halves:
                scores |= _combined([r for r in halves["choose"] if r["kind"] == kind], rows)
            figures = {name: _figures(values, rows) for name, values in scores.items()}
            costs = {name: _cost(name, rows) for name in scores}
            print(
                "| way | AUROC | right in the best 30 / 50 / 70 % over all | tokens x 10^9 parameters |"
                "\n|---|---|---|---|"
            )
            for name, f in sorted(figures.items(), key=lambda pair: -pair[1]["auc"]):
                gains = " / ".join(f"{100 * gain:+.0f}" for gain in f["gains"])
                cost = "" if costs[name] is None else f"{costs[name]:.0f}"
                print(f"| {name} | {f['auc']:.2f} [{f['low']:.2f}, {f['high']:.2f}] | {gains} | {cost} |")
            found[f"{kind} {author}"] = {"answers": len(rows), "right": base, "ways": figures, "costs": costs}
    return found


def _single(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row["scores"])
    scores = {name: np.array([row["scores"].get(name, np.nan) for row in rows]) for name in names}
    return scores | {"shorter is better": np.array([-float(row["length"]) for row in rows])}


def _features(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    table = np.array([[row["scores"].get(name, np.nan) for name in names] for row in rows], float)
    return table


def _combined(fit: Sequence[Row], rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Combine scores by weights that were fitted on the other half."""
    sets = {
        "logprob + correctness 1.5b": ["1.5b logprob", "1.5b correctness"],
        "logprob + agreement + correctness 1.5b": ["1.5b logprob", "1.5b agreement", "1.5b correctness"],
        "all cheap ways": [
            f"{who} {way}" for who in ("1.5b", "0.5b", "135m") for way in ("logprob", "information", "correctness")
        ],
        "all ways": [
            f"{who} {way}" for who in ("1.5b", "0.5b") for way in ("logprob", "correctness", "reference", "agreement")
        ]
        + ["135m logprob"],
    }
    found = {}
    for label, wanted in sets.items():
        names = [name for name in wanted if any(name in row["scores"] for row in fit)]
        right = np.array([row["right"] for row in fit], bool)
        if not names or right.all() or not right.any():
            continue
        train, test = _features(fit, names), _features(rows, names)
        centre, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0) + 1e-9
        fitted = fit_weights(names, (train - centre) / scale, right)
        found[f"weighted: {label}"] = np.nan_to_num((test - centre) / scale) @ np.array(fitted.weights)
    return found


def _figures(values: np.ndarray, rows: Sequence[Row]) -> dict[str, Any]:
    right = np.array([row["right"] for row in rows], bool)
    known = ~np.isnan(values)
    values, right = values[known], right[known]
    if right.all() or not right.any():
        return {"auc": float("nan"), "low": float("nan"), "high": float("nan"), "gains": [0, 0, 0], "n": len(values)}
    rng, draws = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        at = rng.integers(len(values), size=len(values))
        if right[at].any() and not right[at].all():
            draws.append(auc(values[at][right[at]], values[at][~right[at]]))
    order = np.argsort(-values, kind="stable")
    gains = [
        float(right[order[: max(1, round(share * len(values)))]].mean() - right.mean()) for share in (0.3, 0.5, 0.7)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "auc": auc(values[right], values[~right]),
        "low": float(low),
        "high": float(high),
        "gains": gains,
        "n": len(values),
    }


def _cost(name: str, rows: Sequence[Row]) -> float | None:
    costs = [row["costs"][name] for row in rows if name in row["costs"]]
    return float(np.mean(costs)) if costs else None
