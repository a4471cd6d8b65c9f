"""Tables of `review_truth.py`: how well each way of scoring, and each combination, tells right from wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gra.config.review import ReviewConfig
from gra.stats.panel import costs_until
from gra.stats.reliability import auc
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.measuring.panel import FittedPanel, Panel, fit_panel

Row = Mapping[str, Any]
_DRAWS = 400
GATE = 5.0  # even odds, as in the study's recipes


def print_tables(halves: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Print one table a kind and author of the last half, and return the figures."""
    report = halves.get("report") or halves["choose"]
    found: dict[str, Any] = {}
    fitted = _fitted(halves["choose"]) if {"choose", "report"} <= set(halves) else {}
    for kind in dict.fromkeys(row["kind"] for row in report):
        for author in dict.fromkeys(row["author"] for row in report):
            rows = [row for row in report if row["kind"] == kind and row["author"] == author]
            base = float(np.mean([row["right"] for row in rows])) if rows else 0.0
            print(f"\n{kind}, answers by {author}: {len(rows)} answers, {base:.0%} right")
            if not 0 < base < 1:
                continue
            scores = _single(rows)
            costs: dict[str, float | None] = {name: _cost(name, rows) for name in scores}
            panels, spent, stops = _panels(fitted, rows)
            scores, costs = scores | panels, costs | spent
            figures = {name: _figures(values, rows) for name, values in scores.items()}
            print(
                "| way | AUROC | right in the best 30 / 50 / 70 % over all | tokens x 10^9 parameters |"
                "\n|---|---|---|---|"
            )
            for name, f in sorted(figures.items(), key=lambda pair: -pair[1]["auc"]):
                gains = " / ".join(f"{100 * gain:+.0f}" for gain in f["gains"])
                cost = "" if costs[name] is None else f"{costs[name]:.0f}"
                if name in stops:
                    cost += f"; adaptive {stops[name]['cost']:.2f} of it, {stops[name]['changed']:.1%} changed"
                print(f"| {name} | {f['auc']:.2f} [{f['low']:.2f}, {f['high']:.2f}] | {gains} | {cost} |")
            found[f"{kind} {author}"] = {
                "answers": len(rows),
                "right": base,
                "ways": figures,
                "costs": costs,
                "early_stops": stops,
            }
    return found


def _single(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row["scores"])
    scores = {name: np.array([row["scores"].get(name, np.nan) for row in rows]) for name in names}
    return scores | {"shorter is better": np.array([-float(row["length"]) for row in rows])}


def _features(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    table = np.array([[row["scores"].get(name, np.nan) for name in names] for row in rows], float)
    return table


# Reviewers of a panel, by the names in `scores`.
PANELS = {
    "release 0.1": ("0.5b yes_no", "0.5b information", "135m information"),
    "logprob, correctness": ("1.5b logprob", "1.5b correctness"),
    "logprob, reference": ("1.5b logprob", "1.5b reference"),
    "logprob, agreement": ("1.5b logprob", "1.5b agreement"),
    "logprob, agreement of 1": ("1.5b logprob", "1.5b agreement of 1"),
    "logprob, agreement of 2": ("1.5b logprob", "1.5b agreement of 2"),
    "correctness, agreement of 2": ("1.5b correctness", "1.5b agreement of 2"),
    "agreement of 2": ("1.5b agreement of 2",),
    "logprob, correctness, agreement of 2": ("1.5b logprob", "1.5b correctness", "1.5b agreement of 2"),
    "logprob, reference, agreement": ("1.5b logprob", "1.5b reference", "1.5b agreement"),
    "logprob, correctness, agreement": ("1.5b logprob", "1.5b correctness", "1.5b agreement"),
    "quickstart, in turns: logprob, agreement of 1, of 2": (
        "1.5b logprob", "1.5b agreement of 1", "1.5b agreement of 2"
    ),
    "in turns: logprob, agreement of 1, of 2, of 4": (
        "1.5b logprob", "1.5b agreement of 1", "1.5b agreement of 2", "1.5b agreement"
    ),
    "five": ("1.5b logprob", "1.5b correctness", "1.5b reference", "1.5b agreement", "0.5b logprob"),
}  # fmt: skip
# Reviewers that share answers: four of them hold the first two.
SHARING = {name: "agreement" for name in ("1.5b agreement of 1", "1.5b agreement of 2", "1.5b agreement")}


@dataclass(frozen=True)
class FittedGate:
    """A panel fitted on all kinds of the half `choose`, as a run does on its control items, and its gate."""

    names: tuple[str, ...]
    panel: FittedPanel


def _fitted(fit: Sequence[Row]) -> dict[str, FittedGate]:
    """Fit every panel in every aggregation."""
    items, found = [_item(row) for row in fit], {}
    for label, names in PANELS.items():
        raw: dict[str, dict[str, float]] = {name: {} for name in names}
        for item, row in zip(items, fit, strict=True):
            for name in set(names) & set(row["scores"]):
                raw[name][item.name] = row["scores"][name]
        cost = {name: _cost(name, fit) or 0.0 for name in names}
        for aggregate in ("mean", "weighted", "label_model") if label != "release 0.1" else ("mean",):
            review = ReviewConfig.model_validate(
                {"control_items": 4, "aggregate": aggregate, "strategy": "adaptive", "accept_mean": GATE}
            )
            fitted = fit_panel(items, raw, review, costs=cost, families={}, authors={}, sharing=SHARING)
            found[f"panel ({label}), {aggregate}"] = FittedGate(names, fitted)
    return found


def _panels(
    panels: Mapping[str, FittedGate], rows: Sequence[Row]
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """Score rows by fitted panels.

    Returns:
        Scores by panel, their cost, and what early stopping changed.
    """
    scores: dict[str, np.ndarray] = {}
    costs: dict[str, float] = {}
    stops: dict[str, Any] = {}
    for label, gate in panels.items():
        if any(not any(name in row["scores"] for row in rows) for name in gate.names):
            continue  # no program compares answers of this kind, so nobody agrees
        full, early, spent = [], [], 0.0
        for row in rows:
            given = _calibrated(gate.panel, gate.names, row)
            full.append(gate.panel.panel.score(given))
            value, asked = _adaptive(gate.panel.panel, given)
            early.append(value)
            spent += _spent(row, asked)
        whole = sum(_spent(row, gate.names) for row in rows)
        scores[label], costs[label] = np.array(full), whole / len(rows)
        stops[label] = {
            "cost": spent / whole if whole else 1.0,
            "changed": float(np.mean((np.array(full) >= GATE) != (np.array(early) >= GATE))),
        }
    return scores, costs, stops


def _spent(row: Row, asked: Sequence[str]) -> float:
    """Return what these reviews cost; reviewers that share answers cost what the dearest of them does."""
    return costs_until(asked, row["costs"], SHARING)[-1] if asked else 0.0


def _calibrated(fitted: FittedPanel, names: Sequence[str], row: Row) -> dict[str, float]:
    return {name: fitted.calibrations[name](row["scores"][name]) for name in names if name in row["scores"]}


def _item(row: Row) -> ControlItem:
    kind = ControlKind.RIGHT_ANSWER if row["right"] else ControlKind.WRONG_ANSWER
    return ControlItem(kind, f"{row['kind']}-{row['item']}", row["instruction"], row["response"], row["author"])


def _adaptive(panel: Panel, given: Mapping[str, float]) -> tuple[float, list[str]]:
    """Return the score with which an adaptive review stops, and who was asked."""
    asked: dict[str, float] = {}
    for name in panel.stop.order if panel.stop else given:
        if name in given:
            asked[name] = given[name]
            if panel.decided(asked):
                break
    return panel.score(asked), list(asked)


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
