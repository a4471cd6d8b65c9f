"""The paper's tables: whole, recomputed, and beside a user's scores with what differs."""

from __future__ import annotations

import pytest

from gra.evaluation.compare import published
from gra.evaluation.compare.published import MainRow, beside


def row(base: str, seed: str, data: str) -> MainRow:
    [found] = [r for r in published.published().main if (r.base, r.seed, r.data) == (base, seed, data)]
    return found


def test_every_row_of_the_three_tables_is_there() -> None:
    paper = published.published()
    assert (len(paper.main), len(paper.refined), len(paper.iterations)) == (24, 8, 30)
    assert len({(r.base, r.seed, r.data) for r in paper.main}) == 24
    assert {(r.base, r.seed, r.rows) for r in paper.iterations} == {
        (base, seed, size)
        for base in ("Qwen-2.5-7B", "Llama-3.1-8B")
        for seed in ("Alpaca", "WizardLM", "Condor")
        for size in range(10_000, 60_000, 10_000)
    }
    assert row("Qwen-2.5-7B", "WizardLM", "GRA").average == 62.17


def test_ten_of_24_averages_are_not_the_mean_of_their_row() -> None:
    paper = published.published()
    wrong = {(r.base, r.seed, r.data) for r in paper.main if published.average_is_wrong(r)}
    qwen = {
        ("Qwen-2.5-7B", seed, f"distilled-{size}B") for seed in ("Alpaca", "WizardLM", "Condor") for size in (32, 72)
    }
    llama = {
        ("WizardLM", "distilled-32B"),
        ("WizardLM", "distilled-72B"),
        ("Condor", "distilled-32B"),
        ("Condor", "GRA"),
    }
    assert wrong == qwen | {("Llama-3.1-8B", *rest) for rest in llama}
    [late] = [r for r in paper.iterations if published.average_is_wrong(r)]
    assert (late.base, late.seed, late.rows) == ("Llama-3.1-8B", "Condor", 50_000)
    assert published.recomputed(late) == pytest.approx(51.158)


def test_gra_rows_are_the_best_iteration_by_test_score() -> None:
    paper = published.published()
    for base in ("Qwen-2.5-7B", "Llama-3.1-8B"):
        for seed in ("Alpaca", "WizardLM", "Condor"):
            runs = [r for r in paper.iterations if (r.base, r.seed) == (base, seed)]
            best = max(runs, key=lambda r: r.average)
            assert best.scores == row(base, seed, "GRA").scores


def test_printed_scores_are_whole_numbers_of_items() -> None:
    """The scores show that ARC-C had 295 items, not 1172, and GPQA the diamond set, not the main one."""
    paper = published.published()
    rows = [*paper.main, *paper.iterations]
    odd = 0
    for place, column in enumerate(paper.columns):
        if column.items is not None:
            for score in {r.scores[place] for r in rows}:
                right = round(score * column.items / 100)
                odd += abs(100 * right / column.items - score) > 0.00501
    assert odd == 2  # both in GSM8K


def test_a_users_scores_stand_in_the_papers_columns_with_what_differs() -> None:
    tasks = {
        "gsm8k": {"kind": "generation", "mean": 0.5, "n": 1319},
        "arc_challenge": {"kind": "likelihood", "mean": 0.25, "n": 1172},
        "mmlu": {"kind": "generation", "mean": 0.4, "n": 14042},
        "sciq": {"kind": "likelihood", "mean": 0.9, "n": 100},
    }
    found = beside({"arms": {"mine": {"tasks": tasks}}, "decoding": {"max_new_tokens": 1024}})
    assert found["arms"] == {"mine": {"GSM8K": 50.0, "ARC-C": 25.0, "MMLU": 40.0}}
    listed = {column: " | ".join(what) for column, what in found["differs"].items()}
    assert "OpenCompass" in listed["GSM8K"]
    assert "at most 1024 new tokens, the paper 4096" in listed["GSM8K"]
    assert "items" not in listed["GSM8K"]
    assert "scored by likelihood" in listed["ARC-C"]
    assert "1,172 items, the paper's scores are shares of 295" in listed["ARC-C"]
    assert "average of averages" in listed["MMLU"]
    text = "\n".join(published.lines(found))
    assert "| **mine** (yours) |  |  | 50.00 |" in text
    assert "| distilled-72B | Qwen-2.5-7B | Alpaca | 50.64 |" in text
    assert text.count(" ! |") == 11
    assert "not in your suite: MATH, HumanEval" in text
