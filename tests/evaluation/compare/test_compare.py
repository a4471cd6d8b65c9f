"""Comparisons of recorded runs: figures by hand, refusals, seeds, files and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import MakeRun
from rich.console import Console

from gra.cli.compare import main_compare
from gra.core.errors import DataError, Mismatch, RecipeError
from gra.core.run_folder import RunFolder
from gra.evaluation.compare.compare import Comparison, compare
from gra.reports.comparison import MEAN, read_comparison
from gra.stats import paired as stats


def task_of(comparison: Comparison, arm: str, against: str = "baseline", task: str = "instructions") -> dict[str, Any]:
    pairs = {(pair["arm"], pair["against"]): pair for pair in comparison.content["pairs"]}
    return dict(pairs[arm, against]["tasks"][task])


def test_figures_by_hand(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {
        "untuned": make_run("untuned", range(0, 4), stops=False),
        "distilled": make_run("distilled", range(0, 20), [0, 1]),
        "gra": make_run("gra", range(2, 38), [1, 2]),
    }
    content = compare(runs, "distilled", 0.05, tmp_path / "out").to_json()
    assert content == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [(p["arm"], p["reference"]) for p in content["pairs"]] == [
        ("gra", "distilled"), ("distilled", "untuned"), ("gra", "untuned"),
    ]  # fmt: skip
    gra = content["arms"]["gra"]["tasks"]["instructions"]
    assert (gra["n"], gra["mean"], gra["stopped"], gra["mean_tokens"]) == (40, 0.9, 1.0, 2.0)
    assert (gra["low"], gra["high"]) == stats.wilson(0.9, 40)
    assert content["arms"]["untuned"]["tasks"]["instructions"]["stopped"] == 0.0
    assert content["arms"]["gra"]["overall"]["mean"] == pytest.approx((0.9 + 2 / 6) / 2)
    entry = content["pairs"][0]["tasks"]["instructions"]
    assert (entry["wins"], entry["losses"], entry["ties"]) == (18, 2, 20)
    assert entry["difference"] == pytest.approx(16 / 40)
    assert entry["p"] == stats.mcnemar(18, 2)
    assert entry["p_holm"] == pytest.approx(2 * entry["p"])
    assert entry["verdict"] == "better"
    estimate = stats.paired_difference([1] * 18 + [0] * 22, [0] * 18 + [1] * 2 + [0] * 20, bounded=True)
    assert (entry["low"], entry["high"]) == pytest.approx(estimate.interval())
    assert entry["mde"] == pytest.approx(estimate.detectable())
    expected = (estimate.p_inferior(0.05), estimate.p_unequal(0.05))
    assert (entry["p_inferior"], entry["p_unequal"]) == pytest.approx(expected)
    sums = content["pairs"][0]["tasks"]["sums"]
    assert (sums["difference"], sums["wins"], sums["losses"]) == (0.0, 1, 1)
    assert sums["verdict"] == "inconclusive"
    assert content["pairs"][0]["overall"]["difference"] == pytest.approx(0.2)
    assert content["comparable"] is True
    assert RunFolder(tmp_path / "out").verify() == 3
    assert not any("_estimate" in key for key in json.dumps(content).split('"'))


def test_an_arm_is_compared_with_the_unreviewed_rows_of_its_candidates(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {
        "distilled": make_run("distilled", range(0, 20)),
        "unreviewed": make_run("unreviewed", range(0, 10)),
        "gra": make_run("gra", range(0, 30)),
    }
    data = {
        "distilled": {"of": None, "part": "train"},
        "unreviewed": {"of": "gra", "part": "unreviewed"},
        "gra": {"of": None, "part": "train"},
    }
    facts = {
        arm: known | {"draw": "even", "rows": 4, "wanted": 4, "available": 4, "cost": None}
        for arm, known in data.items()
    }
    content = compare(runs, "distilled", 0.05, tmp_path / "out", data=facts).to_json()
    assert [(p["arm"], p["reference"], p["against"]) for p in content["pairs"]] == [
        ("unreviewed", "distilled", "baseline"), ("gra", "distilled", "baseline"), ("gra", "unreviewed", "unreviewed"),
    ]  # fmt: skip
    bought = content["pairs"][2]["tasks"]["instructions"]
    assert bought["difference"] == pytest.approx(0.5)
    assert bought["p_holm"] == pytest.approx(2 * bought["p"])  # two tasks of one comparison
    assert "## gra against unreviewed" in (tmp_path / "out" / "compare.md").read_text()
    view = read_comparison(content)
    assert view is not None
    assert (view.reviewed[0].task, view.reviewed[0].arm, view.reviewed[0].reference) == (MEAN, "gra", "unreviewed")
    assert len(view.reviewed) == 3
    assert {line.panel for line in view.forest()} == {"against distilled"}
    # Unreviewed rows as the baseline are not compared twice.
    content = compare(runs, "unreviewed", 0.05, tmp_path / "again", data=facts).to_json()
    assert [(p["arm"], p["against"]) for p in content["pairs"]] == [("distilled", "baseline"), ("gra", "baseline")]


def test_categories_and_samples(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"a": make_run("a", range(0, 40, 2)), "b": make_run("b", range(5, 40))}
    content = compare(runs, "a", 0.02, tmp_path / "out").to_json()
    entry = content["pairs"][0]["tasks"]["instructions"]
    assert {name: (c["wins"], c["losses"]) for name, c in entry["categories"].items()} == {"a": (0, 3), "b": (18, 0)}
    assert all(c["verdict"] in ("better", "inconclusive") for c in entry["categories"].values())
    samples = content["samples"]
    assert [(s["item"], s["outcome"]) for s in samples] == [
        ("i05", "win"), ("i07", "win"), ("i09", "win"), ("i00", "loss"), ("i02", "loss"), ("i04", "loss"),
    ]  # fmt: skip
    assert samples[0]["output"] == "ok-b"
    assert samples[0]["reference_output"].startswith("no no")
    assert samples[0]["question"].startswith("Say a word")


def test_identical_runs_are_not_called_better_and_never_certain(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"a": make_run("a", range(20)), "b": make_run("b", range(20))}
    comparison = compare(runs, "a", 0.02, tmp_path / "out")
    entry = task_of(comparison, "b")
    assert (entry["difference"], entry["p"], entry["verdict"]) == (0.0, 1.0, "inconclusive")
    assert entry["high"] - entry["low"] > 0.05
    assert task_of(compare(runs, "a", 0.3, tmp_path / "wide"), "b")["verdict"] == "non-inferior"


def test_training_seeds_widen_the_interval_by_their_spread(make_run: MakeRun, tmp_path: Path) -> None:
    base = make_run("base", range(20))
    steady = [make_run(f"steady#{seed}", range(30)) for seed in range(3)]
    erratic = [make_run(f"erratic#{seed}", range(20 + 10 * seed)) for seed in range(3)]
    comparison = compare({"base": base, "steady": steady, "erratic": erratic}, "base", 0.02, tmp_path / "out")
    calm, wild = task_of(comparison, "steady"), task_of(comparison, "erratic")
    assert calm["difference"] == wild["difference"] == pytest.approx(0.25)
    assert calm["high"] - calm["low"] < 0.4
    assert wild["high"] - wild["low"] > 2 * (calm["high"] - calm["low"])
    assert comparison.content["arms"]["erratic"]["seeds"] == 3
    assert comparison.content["arms"]["erratic"]["tasks"]["instructions"]["seed_means"] == [0.5, 0.75, 1.0]
    assert "for base:" in comparison.content["notes"][0]


def test_prompts_that_differ_are_stamped(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"a": make_run("a", range(20)), "b": make_run("b", range(30), prompt="another template")}
    comparison = compare(runs, "a", 0.02, tmp_path / "out")
    assert comparison.content["comparable"] is False
    assert comparison.content["pairs"][0]["prompts_differ"] == 40
    assert "NOT COMPARABLE: b and a were asked 40 prompts" in comparison.to_markdown()
    console = Console(record=True, width=140)
    console.print(comparison.table())
    assert "NOT COMPARABLE" in console.export_text()


def test_markdown_and_table_say_what_the_json_says(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"untuned": make_run("untuned", range(4)), "a": make_run("a", range(20)), "b": make_run("b", range(2, 38))}
    comparison = compare(runs, "a", 0.02, tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text == comparison.to_markdown()
    assert "| instructions | b | 40 | 90.0 % [76.9, 96.0] | 100 % |  | 2 | +40.0 [" in text
    assert "a loss of 2.0 points or more is ruled out" in text
    console = Console(record=True, width=160)
    console.print(comparison.table())
    shown = console.export_text()
    for word in ("vs a", "vs untuned", "better", "inconclusive (MDE", "90.0 %"):
        assert word in shown


DIFFERENT = [
    ({"generation": {"max_new_tokens": 7}}, r"decoding\.max_new_tokens \(6 and 7\)"),
    ({"dtype": "bfloat16"}, r"decoding\.dtype \(float32 and bfloat16\)"),
    ({"instructions": [{"id": f"i{n:02}", "instruction": f"Say a word of {n % 7 + 1} letters.", "category": "ab"[n % 2],
       "checks": [{"kind": "words_at_most", "n": 1 + n % 3}]} for n in range(1, 40)]},
     "the items of instructions .1 are in one run only, such as i00"),
    ({"instructions": [{"id": f"i{n:02}", "instruction": "Say it.", "category": "ab"[n % 2],
       "checks": [{"kind": "words_at_most", "n": 1 + n % 3}]} for n in range(40)]},
     "the wording of 40 items of instructions"),
    ({"instructions": [{"id": f"i{n:02}", "instruction": f"Say a word of {n % 7 + 1} letters.", "category": "ab"[n % 2],
       "checks": [{"kind": "words_at_most", "n": 5}]} for n in range(40)]},
     "the targets of 40 items of instructions"),
    ({"tasks": [{"name": "instructions", "kind": "instructions", "data": "instructions.jsonl", "chat": False},
                {"name": "sums", "kind": "likelihood", "data": "questions.jsonl"}]},
     "how items are put to the model"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DIFFERENT)
def test_different_suites_are_not_compared(
    make_run: MakeRun, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    runs = {"a": make_run("a", range(20)), "b": make_run("b", range(20), **change)}
    with pytest.raises(Mismatch, match=message) as caught:
        compare(runs, "a", 0.02, tmp_path / "out")
    assert str(tmp_path / "b") in str(caught.value)
    assert not (tmp_path / "out" / "compare.json").exists()


def test_records_that_were_changed_are_not_compared(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"a": make_run("a", range(20)), "b": make_run("b", range(20))}
    results = runs["b"] / "results.json"
    results.write_text(results.read_text() + " ")
    with pytest.raises(Mismatch, match="was changed after it was written"):
        compare(runs, "a", 0.02, tmp_path / "out")


def test_impossible_comparisons(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"alpha": make_run("alpha", range(20)), "beta": make_run("beta", range(20))}
    with pytest.raises(RecipeError, match=r"baseline `alfa` is not one of the runs .* did you mean `alpha`"):
        compare(runs, "alfa", 0.02, tmp_path / "out")
    with pytest.raises(RecipeError, match="at least two runs"):
        compare({"alpha": runs["alpha"]}, "alpha", 0.02, tmp_path / "out")
    with pytest.raises(DataError, match="holds no finished evaluation"):
        compare({**runs, "gone": tmp_path / "gone"}, "alpha", 0.02, tmp_path / "out")


def run_cli(*arguments: object) -> int:
    try:
        main_compare([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_line(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run("a", range(20)), make_run("b", range(30))
    assert run_cli(a, b, f"late={b}", "--output", tmp_path / "out", "--json") == 0
    shown = capsys.readouterr()
    content = json.loads(shown.out)
    assert list(content["arms"]) == ["a", "b", "late"]
    assert content["baseline"] == "a"
    assert "One training seed for a, b, late" in shown.err
    assert run_cli(f"x={a}", f"x={b}", f"y={b}", "--baseline", "y", "--output", tmp_path / "seeds") == 0
    assert json.loads((tmp_path / "seeds" / "compare.json").read_text())["arms"]["x"]["seeds"] == 2


def test_a_mismatch_ends_with_5_and_a_mistake_with_2(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_run("a", range(20)), make_run("b", range(20), generation={"max_new_tokens": 7})
    assert run_cli(a, b, "--output", tmp_path / "out") == 5
    assert "did not answer the same suite" in capsys.readouterr().err
    assert run_cli(a, tmp_path / "gone", "--output", tmp_path / "out") == 2
    assert "holds no finished evaluation" in capsys.readouterr().err
    assert run_cli(a, b, "--margin", "2") == 2
    assert run_cli(a, a, "--output", tmp_path / "out") == 2
    assert "at least two runs" in capsys.readouterr().err
