"""How good the rows are: which decisions count, the curve of the gate, and each reviewer beside the people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from desk_runs import finished_run, read_desk
from reported_run import reviewed
from starlette.testclient import TestClient

from gra.core.types import State
from gra.core.vocabulary import HumanVerdict
from gra.desk.desk import DecisionRequest
from gra.desk.estimate import DrawnRow, gate_curve, precision_of, random_part, reviewer_agreement, summary
from gra.desk.index import draw_of
from gra.desk.server import make_app


def rows(*verdicts: str) -> list[DrawnRow]:
    return [DrawnRow(f"c{n}", 6.0 + n / 10, verdict) for n, verdict in enumerate(verdicts)]


def test_random_part_ends_at_the_first_open_row() -> None:
    drawn = rows("keep", "drop", "", "edit", "", "drop")
    assert random_part(drawn, set()) == (drawn[:2], 0)
    assert random_part(drawn, {"c2"}) == ([drawn[0], drawn[1], drawn[3]], 1)
    assert random_part(rows("", "drop"), set()) == ([], 0)


def test_rows_picked_for_disagreement_do_not_shift_the_estimate() -> None:
    """Decide every bad row first; the beginning of the random order still has its share of them."""
    luck, covered = np.random.default_rng(0), 0
    for _ in range(60):
        good = luck.random(300) < 0.8
        drawn = [
            DrawnRow(f"c{n}", float(luck.normal(7)), ("keep" if good[n] else "drop") if n < 40 or not good[n] else "")
            for n in range(300)
        ]
        found = precision_of(drawn, random_part(drawn, set())[0])
        assert found is not None
        covered += found.low <= good.mean() <= found.high
    assert covered >= 51  # of 60; fewer has a chance below 1 in 1,000 at 95 %


def test_edited_row_was_not_good() -> None:
    drawn = rows("keep", "edit", "drop", "keep")
    found = summary(drawn, *random_part(drawn, set()))
    assert found["precision"]["value"] == 0.5
    assert (found["decided"], found["needed"]) == (4, 0)
    assert summary(rows("", ""), [], 0)["precision"] is None


def test_curve_counts_all_scored_candidates_and_knows_precision_above_the_gate() -> None:
    drawn = [DrawnRow(f"c{n}", 6.0 + (n % 8) / 2, "" if n > 31 else "keep" if n % 8 > 1 else "drop") for n in range(64)]
    below = [DrawnRow(f"b{n}", score, "") for n, score in enumerate((5.0, 5.5, 5.9))]
    curve = {point["gate"]: point for point in gate_curve(drawn, drawn[:32], below, 6.0)}
    assert curve[5.0]["rows"] == 67
    assert (curve[5.5]["precision"], curve[5.5]["unknown"]) == (None, "below")
    assert curve[6.0]["rows"] == 64
    assert 0.6 < curve[6.0]["precision"]["value"] < 0.9
    assert (curve[9.5]["precision"], curve[9.5]["unknown"]) == (None, "few")
    assert curve[7.0]["precision"]["value"] == 1.0
    assert gate_curve([], [], [], 6.0) == []


def at_gates(rows: list[DrawnRow], below: list[DrawnRow], gate: float, others: int = 0) -> dict[float, dict[str, Any]]:
    return {point["gate"]: point for point in gate_curve(rows, random_part(rows, set())[0], below, gate, others)}


def test_curve_knows_what_is_all_decided_and_says_why_it_does_not_know() -> None:
    few = at_gates(rows("drop", "keep", "keep"), [], 6.05)
    assert [(few[gate]["rows"], few[gate]["precision"]["low"]) for gate in (6.0, 6.05)] == [(3, 2 / 3), (2, 1.0)]
    assert few[6.25]["rows"] == 0
    lower = at_gates(rows(*["keep"] * 8), [DrawnRow("b", 5.2, "")], 6.0)
    assert [lower[gate]["unknown"] for gate in (5.0, 5.25, 5.5)] == ["below", "", ""]
    assert (lower[5.5]["rows"], lower[5.5]["precision"]) == (lower[6.0]["rows"], lower[6.0]["precision"])


def test_curve_says_how_many_rows_a_version_has() -> None:
    made = [DrawnRow("a", 8.0, "keep"), DrawnRow("b", 7.0, "drop"), DrawnRow("c", 6.5, "edit"),
            DrawnRow("d", None, ""), DrawnRow("e", None, "drop"), DrawnRow("f", 9.0, "")]  # fmt: skip
    curve = at_gates(made, [DrawnRow("g", 5.0, "keep"), DrawnRow("h", 4.0, "")], 6.0, others=1)
    found = {gate: tuple(curve[gate][name] for name in ("rows", "dropped", "kept", "dataset")) for gate in (4, 6, 7, 9)}
    assert found == {4: (6, 1, 1, 7), 6: (4, 1, 2, 6), 7: (3, 1, 3, 6), 9: (1, 0, 4, 6)}


def test_agreement_is_the_chance_that_a_kept_candidate_scores_higher() -> None:
    scores = {"a": {"ben": 9.0, "cy": 3.0}, "b": {"ben": 4.0, "cy": 5.0}, "c": {"ben": 5.0}}
    found = reviewer_agreement(scores, {"a": "keep", "b": "drop", "c": "edit"})
    assert found == [
        {"reviewer": "ben", "kept": 1, "not": 2, "auc": 1.0},
        {"reviewer": "cy", "kept": 1, "not": 1, "auc": 0.0},
    ]


def test_desk_shows_the_estimate(tmp_path: Path) -> None:
    made = [reviewed(n, State.ACCEPTED, "reviewers agree", (7.0 + n % 3, 8.0)) for n in range(30)]
    made += [reviewed(30, State.REJECTED, "response: mean score too low", (2.0, 3.0))]
    with read_desk(finished_run(tmp_path / "run", made)) as desk:
        web = TestClient(make_app(desk, "token"), base_url="http://127.0.0.1:8000/token/")
        assert web.get("api/estimate").json()["precision"] is None
        order = sorted(made[:30], key=lambda c: draw_of(desk.name, c.id))
        for n, candidate in enumerate(order[:12]):
            subject = desk.candidate(candidate.id)["subject"]  # type: ignore[index]
            verdict = HumanVerdict.DROP if n == 5 else HumanVerdict.SKIP if n == 3 else HumanVerdict.KEEP
            desk.decide(DecisionRequest("ann", candidate.id, verdict, subject))
        found = web.get("api/estimate").json()
        assert (found["rows"], found["decided"], found["skipped"], found["gate"]) == (30, 11, 1, 6.0)
        assert found["precision"]["good"] == 10
        assert found["precision"]["low"] < found["precision"]["value"] < found["precision"]["high"]
        assert 0 < found["needed"] < 19
        assert found["curve"][0]["rows"] == 31
        assert {one["reviewer"] for one in found["reviewers"]} == {"ben", "cy"}
