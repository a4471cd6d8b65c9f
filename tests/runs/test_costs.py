"""What the rows of an arm cost, by the answers that the arm used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported_run import CANDIDATES, GRA_FACTS, MODEL, write_arm

from gra.runs import costs
from gra.runs.costs import UNIT, cost_of_rows


def used(work: str, role: str, tokens: int) -> dict[str, Any]:
    return {"work": work, "role": role, "model": "tiny-model", "calls": 1, "prompt_tokens": tokens - 10,
            "completion_tokens": 10, "cached_tokens": 0}  # fmt: skip


USED = [used("candidate", "generator", 1000), used("candidate", "reviewer", 5000), used("pair", "reviewer", 300),
        used("seed", "enricher", 50)]  # fmt: skip


def arm(folder: Path, **changes: Any) -> Path:
    large = {"tiny-model": MODEL | {"parameters": 2_000_000_000}}
    facts = GRA_FACTS | {"used": USED, "models": large} | changes
    write_arm(folder, CANDIDATES, {key: value for key, value in facts.items() if value is not None})
    return folder


def test_rows_bear_their_share_of_the_work_and_all_of_the_preparation(tmp_path: Path) -> None:
    folder = arm(tmp_path)
    # Two rows were accepted. Six candidates may be unreviewed rows; a check of eight instructions took 308 tokens.
    assert cost_of_rows(folder, 1, reviewed=True) == {
        "unit": UNIT, "generation": 1000.0, "review": 5000.0, "preparation": 700.0, "total": 6700.0
    }  # fmt: skip
    checks = 8 * 308 * 2.0
    assert cost_of_rows(folder, 3, reviewed=False) == {
        "unit": UNIT, "generation": 1000.0, "review": checks / 2, "preparation": 100.0, "total": 1100.0 + checks / 2
    }  # fmt: skip


def test_labels_are_generation(tmp_path: Path) -> None:
    cost = cost_of_rows(arm(tmp_path, used=[used("answer", "annotator", 900)]), 2, reviewed=True)
    assert isinstance(cost, dict)
    assert (cost["generation"], cost["review"]) == (1800.0, 0.0)


def test_checks_that_cannot_be_told_from_reviews_have_no_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = arm(tmp_path)
    reviewed = [c for c in costs.iter_candidates(folder / "lineage.parquet") if c.reviews]
    assert reviewed
    monkeypatch.setattr(costs, "iter_candidates", lambda _: reviewed)
    assert "every checked candidate was reviewed" in str(cost_of_rows(folder, 1, reviewed=False))


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"models": {"tiny-model": MODEL}}, "parameters of tiny-model is not known"), ({"used": None}, "did not record")],
)
def test_unknown_cost_says_why(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    assert why in str(cost_of_rows(arm(tmp_path, **changes), 1, reviewed=True))
