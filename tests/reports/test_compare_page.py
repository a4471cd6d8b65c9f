"""The comparison beyond its tables: shared items, clean items, flipped items, the paper's tables, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from evaluation_tiny import INSTRUCTIONS, QUESTIONS
from recorded_runs import MakeRun

from gra.cli.compare import main_compare
from gra.core.errors import Mismatch
from gra.core.run_folder import RunFolder
from gra.data.contamination import SuiteItem
from gra.data.contamination.report import check_dataset
from gra.evaluation.compare.compare import compare
from gra.reports.compare_page import _shown, write_page
from gra.stats import paired as stats

ITEMS = [
    *(SuiteItem("instructions", row["id"], row["instruction"]) for row in INSTRUCTIONS),
    *(SuiteItem("sums", row["id"], row["question"]) for row in QUESTIONS),
]


def data_of(page: Path) -> list[dict[str, Any]]:
    """The flipped items inside the page."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return list(json.loads(text))


def check(folder: Path, *texts: str, items: list[SuiteItem] = ITEMS) -> Path:
    """A contamination check of a training set with these texts."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    check_dataset(folder / "rows.jsonl", items, folder / "out")
    return folder / "out"


def test_flipped_items_have_both_answers(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {"a": make_run("a", range(0, 10), [0, 1]), "b": make_run("b", range(5, 15), [1])}
    compare(runs, "a", 0.02, tmp_path / "out", page=write_page)
    rows = pq.read_table(tmp_path / "out" / "flips.parquet").to_pylist()
    shown = {(row["task"], row["item"]): row for row in rows}
    lost = {("instructions", f"i{n:02}") for n in range(5)} | {("sums", "q00")}
    assert {key for key, row in shown.items() if row["outcome"] == "loss"} == lost
    assert {key for key, row in shown.items() if row["outcome"] == "win"} == {
        ("instructions", f"i{n}") for n in range(10, 15)
    }
    assert shown["instructions", "i12"]["output"] == "ok-b"
    assert shown["instructions", "i12"]["reference_output"].startswith("no no")
    assert shown["sums", "q00"]["output"] == "log-likelihood of each choice: 0.00"
    assert data_of(tmp_path / "out" / "compare.html") == rows
    assert RunFolder(tmp_path / "out").verify() == 5


def test_the_page_is_whole_and_texts_stay_texts(make_run: MakeRun, tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    rows = [{**row, "instruction": f"{row['instruction']} {bad}"} for row in INSTRUCTIONS]
    runs = {"a": make_run("a", range(10), instructions=rows), "b": make_run("b", range(30), instructions=rows)}
    compare(runs, "a", 0.02, tmp_path / "out", page=write_page, published=True)
    text = (tmp_path / "out" / "compare.html").read_text()
    assert bad not in text
    assert len(re.findall("<script", text)) == 2
    assert bad in data_of(tmp_path / "out" / "compare.html")[0]["question"]
    assert not re.search(r'(src|href)="(?!#)', text)  # nothing is fetched
    assert 'aria-label="Paired differences' in text
    assert text.count("≠</td>") == 11
    assert (tmp_path / "out" / "figures" / "comparison.png").stat().st_size > 10_000


def test_a_page_of_many_flips_shares_its_room() -> None:
    def rows(task: str, count: int) -> list[dict[str, Any]]:
        texts = {"question": "q", "output": "o" * 5000, "reference_output": ""}
        sides = {"arm": "a", "reference": "b", "outcome": "win"}
        return [{"task": task, "item": str(n), **sides, **texts} for n in range(count)]

    shown = _shown([*rows("small", 100), *rows("large", 9000), *rows("huge", 20_000)])
    counts = {task: sum(row["task"] == task for row in shown) for task in ("small", "large", "huge")}
    assert counts == {"small": 100, "large": 1450, "huge": 1450}
    assert shown[0]["output"].endswith("(1,000 characters more)")
    assert len(_shown(rows("one", 2999))) == 2999
    assert _shown([]) == []


def test_runs_of_other_prompts_are_compared_on_demand_and_stamped(make_run: MakeRun, tmp_path: Path) -> None:
    fewer = {"instructions": INSTRUCTIONS[:30], "generation": {"max_new_tokens": 7}}
    runs = {"a": make_run("a", range(10)), "b": make_run("b", range(20), **fewer)}
    with pytest.raises(Mismatch, match=r"decoding\.max_new_tokens"):
        compare(runs, "a", 0.02, tmp_path / "out")
    found = compare(runs, "a", 0.02, tmp_path / "out", allow_different_suites=True, page=write_page)
    assert found.content["comparable"] is False
    [what] = found.content["differing"]
    assert "decoding.max_new_tokens (6 and 7)" in what
    assert "the items of instructions (10 are in one run only" in what
    entry = found.content["pairs"][0]["tasks"]["instructions"]
    assert (entry["n"], entry["wins"], entry["losses"]) == (30, 10, 0)
    assert found.content["arms"]["a"]["tasks"]["instructions"]["mean"] == pytest.approx(1 / 3)
    assert "NOT COMPARABLE" in found.to_markdown()
    assert "Not comparable" in (tmp_path / "out" / "compare.html").read_text()


def test_runs_without_a_common_item_are_refused_even_then(make_run: MakeRun, tmp_path: Path) -> None:
    def only(first: int) -> dict[str, Any]:
        return {"instructions": INSTRUCTIONS[first : first + 10], "questions": QUESTIONS[first // 10 : first // 10 + 1]}

    runs = {"a": make_run("a", [0], **only(0)), "b": make_run("b", [0], **only(10))}
    with pytest.raises(Mismatch, match="no item in common"):
        compare(runs, "a", 0.02, tmp_path / "out", allow_different_suites=True)


def test_contaminated_items_are_left_out_for_every_arm(make_run: MakeRun, tmp_path: Path) -> None:
    own = [
        " ".join(f"{word}{n}" for word in ["oak", "sea", "fog", "elk", "ice", "sun", "moss", "rain"]) for n in range(40)
    ]
    items = [SuiteItem("instructions", f"i{n:02}", text) for n, text in enumerate(own)]
    items += [item for item in ITEMS if item.task == "sums"]
    first = check(tmp_path / "one", items[0].text, items[1].text, items=items)
    second = check(tmp_path / "two", items[1].text, items[2].text, items=items)
    runs = {"a": make_run("a", range(3, 10)), "b": make_run("b", range(0, 12))}
    found = compare(runs, "a", 0.02, tmp_path / "out", contamination=[first, second], page=write_page)
    content = found.content
    touched = content["contamination"]["tasks"]["instructions"]["contaminated"]
    kept = 40 - touched
    assert touched == 3
    entry = content["pairs"][0]["tasks"]["instructions"]
    assert (entry["wins"], entry["clean"]["wins"], entry["clean"]["n"]) == (5, 2, kept)
    assert entry["clean"]["difference"] == pytest.approx(2 / kept)
    assert entry["clean"]["p"] == stats.mcnemar(2, 0)
    assert "verdict" not in entry["clean"]
    assert content["arms"]["a"]["tasks"]["instructions"]["clean"]["mean"] == pytest.approx(7 / kept)
    assert content["pairs"][0]["overall"]["clean"]["n"] == 2
    assert not any("_estimate" in key for key in json.dumps(content).split('"'))
    assert f"| 40 | {touched} |" in found.to_markdown()
    page = (tmp_path / "out" / "compare.html").read_text()
    assert 'id="clean"' in page
    assert "left out for every model" in page
    flipped = pq.read_table(tmp_path / "out" / "flips.parquet").to_pylist()
    assert {row["item"] for row in flipped if row["contamination"] == "contaminated"} == {"i00", "i01", "i02"}


def test_items_of_one_passage_are_one_observation(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [{**row, "cluster": f"passage {n // 10}"} for n, row in enumerate(INSTRUCTIONS)]
    plain = {"a": make_run("a", range(20)), "b": make_run("b", range(30))}
    clustered = {n: make_run(f"{n}#c", range(c), instructions=rows) for n, c in (("a", 20), ("b", 30))}
    one = compare(plain, "a", 0.02, tmp_path / "plain").content["pairs"][0]["tasks"]["instructions"]
    two = compare(clustered, "a", 0.02, tmp_path / "clustered").content["pairs"][0]["tasks"]["instructions"]
    assert (one["difference"], two["difference"]) == (0.25, 0.25)
    assert one["p"] == stats.mcnemar(10, 0)
    assert two["se"] > 2 * one["se"]
    assert two["p"] > 0.2  # one passage of four was won


def test_a_check_against_another_suite_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    wrong = check(tmp_path / "wrong", "anything", items=ITEMS[:5])
    runs = {"a": make_run("a", range(3)), "b": make_run("b", range(4))}
    with pytest.raises(Mismatch, match="41 of 46 items were not looked for, such as i05 of instructions"):
        compare(runs, "a", 0.02, tmp_path / "out", contamination=[wrong])


def test_everything_from_the_command_line(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_run("a", range(20)), make_run("b", range(30), generation={"max_new_tokens": 7})
    clean = check(tmp_path / "check", "nothing of the kind")
    flags = ["--anyway", "--published", "--contamination", str(clean), "--output", str(tmp_path / "out"), "--json"]
    main_compare([str(a), str(b), *flags])
    shown = capsys.readouterr()
    content = json.loads(shown.out)
    assert content["published"]["differs"] == content["published"]["arms"] == {}
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "None of these benchmarks is in your suite" in page
    assert "Suspect: 0 of 46 items" in page
    assert len(content["published"]["tables"]["main"]) == 24
    assert content["contamination"]["tasks"]["sums"] == {"items": 6, "contaminated": 0, "suspect": 0}
    assert "compare.html" in shown.err
    assert "## Beside the paper's tables" in (tmp_path / "out" / "compare.md").read_text()
