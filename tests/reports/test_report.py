"""The report page and `gra explain`, on small run folders made of real files."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported_run import (
    CANDIDATES,
    CARD,
    ESCAPE,
    GRA_FACTS,
    HOSTILE,
    KILLED_AND_RESUMED,
    begin,
    candidate,
    end,
    ended,
    write_arm,
    write_run,
)
from rich.console import Console

from gra.core.errors import DataError
from gra.core.files import write_json
from gra.core.progress import View, duration, read_events
from gra.core.types import State
from gra.data.export import export
from gra.reports import statistics as tally
from gra.reports.comparison import ComparisonView, read_comparison
from gra.reports.html import write_report
from gra.reports.text import summary
from gra.runs.contents import read_contents
from gra.runs.explain import explain
from gra.runs.timeline import read_timeline


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "test")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run, title="test", command="gra run x.yaml seed=1").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            self.open.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.words.append(data)

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.found if "id" in attributes]


def drawn(view: ComparisonView, **rows: int) -> ComparisonView:
    return replace(view, data={arm: {"rows": count, "available": 70} for arm, count in rows.items()})


def test_page_shows_rows_and_quality_against_cost(run: Path, page: str) -> None:
    content = json.loads((run / "compare" / "compare.json").read_text())
    view = read_comparison(content)
    assert view is not None
    assert [(p.arm, p.cost) for p in view.costs] == [("vanilla", 0.0), ("gra", 1234.6)]
    for point in view.costs:
        overall = content["arms"][point.arm]["overall"]
        assert (point.mean, point.low, point.high) == (overall["mean"], overall["low"], overall["high"])
        assert point.low < point.mean < point.high
    text = Elements(page).text
    assert "gra gra 2 3 wanted 2 800 400 34 1,235" in text
    assert "fewer rows than the experiment wants: gra 2 of 3" in text
    contents = read_contents(run)
    assert "trained on them." in summary(contents, drawn(view, vanilla=70, gra=70))
    assert "trained on 16 rows of each." in summary(contents, drawn(view, vanilla=16, gra=16))
    assert "trained on 16 to 32 rows of each." in summary(contents, drawn(view, vanilla=16, gra=32))
    assert 'aria-label="Quality against cost' in page
    assert (run / "report" / "figures" / "cost.png").is_file()


def test_page_says_what_the_data_says(page: str) -> None:
    text = Elements(page).text
    said = [
        "2 of 9 candidates became rows", "at least 6.5", "candidate limit",
        "vanilla (5 rows) and gra (2 rows)", "1 student of student-model",
        "36,253", "54 calls",  # all tokens and calls of both roles
        "0.88", "the mean of all reaches 0.94", "control items: 4 pairs", "3 answers unusable",
        "may be no better than chance", "shares its weights with ada, cy, dot",
        "1 of 8",  # ben failed one of the eight instructions it had a say in
        "1 min 43 s", "with 1 resume", "8.0 s",
        "11 of 12", "12,345", "2.550", "2.718",
        "gone-model", "its package is gone", "apache-2.0", "sha256:abc123", "gra run x.yaml seed=1",
        "Fine after all.", "Seed question 1?", "response: mean score too low",
        "Counted by the engines: 30 calls, where the ledger holds 54",
    ]  # fmt: skip
    assert [words for words in said if words.replace("\u00a0", " ") not in text.replace("\u00a0", " ")] == []


def test_page_gives_the_verdicts_and_figures_of_the_comparison(run: Path, page: str) -> None:
    content = json.loads((run / "compare" / "compare.json").read_text())
    text = Elements(page).text
    assert "Compared item by item with vanilla and untuned on forms and facts." in text
    for pair in content["pairs"]:
        for found in (pair["overall"], *pair["tasks"].values()):
            interval = f"{100 * found['difference']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
            assert interval.replace("-", "−") in text
    for facts in content["arms"].values():
        for found in facts["tasks"].values():
            assert f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}" in text
    verdicts = {(p["arm"], p["reference"]): p["overall"]["verdict"] for p in content["pairs"]}
    assert verdicts["gra", "untuned"] == "better"
    table = page[page.index('<table class="verdicts">') : page.index("</table>")]
    words = re.findall(r'class="chip ([a-z-]+)"', table)
    lines = [verdicts["vanilla", "untuned"], verdicts["gra", "vanilla"], verdicts["gra", "untuned"]]
    assert words == lines
    assert "seeds 90.0 · 87.5" in text
    assert "85%" in text
    assert "17.2" in text
    assert "One training seed for gra" in text


def test_one_task_needs_no_mean(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "compare" / "compare.json").read_text())
    for facts in (*content["arms"].values(), *content["pairs"]):
        del facts["tasks"]["facts"]
    comparison = read_comparison(content)
    assert comparison is not None
    assert {d.task for d in comparison.differences} == {"forms"}
    assert [d.task for line in comparison.headlines for d in line.cells if d] == ["forms"] * 3
    assert [d.category for d in comparison.categories[:2]] == ["json", "lists"]


def test_comparison_that_does_not_count_says_so(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "compare" / "compare.json").read_text())
    write_json(tmp_path / "compare" / "compare.json", {**content, "comparable": False})
    text = Elements(write_report(tmp_path, title="x", command="x").read_text()).text
    assert "Not comparable" in text


def test_text_of_models_is_shown_and_never_obeyed(page: str) -> None:
    elements = Elements(page)
    assert HOSTILE in elements.text
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "img" not in [tag for tag, _ in elements.found]


def test_page_loads_nothing(page: str) -> None:
    elements = Elements(page)
    links = [a[name] for _, a in elements.found for name in ("src", "href", "action", "data", "srcset") if name in a]
    assert links
    assert [link for link in links if not link.startswith("#")] == []
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements.found}
    assert re.findall(r"url\((?!#)|@import", page) == []


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    elements = Elements(page)
    ids = elements.ids()
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    references = re.findall(r"url\(#([^)]*)\)", page) + [a["href"][1:] for _, a in elements.found if "href" in a]
    assert set(references) <= set(ids)


def test_figures_follow_the_pages_colours_and_are_named(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) <= {"#ffffff", "#000000"}
        assert "var(--" in drawing
        assert re.search(r'aria-label="[^"]+"', drawing)


def test_figures_are_kept_as_png(run: Path, page: str) -> None:
    files = {file.stem: file.read_bytes() for file in (run / "report" / "figures").iterdir()}
    assert set(files) == {
        "comparison", "cost", "funnel-gra", "scores-gra", "control-items-gra", "timeline", "training", "row-lengths",
        "row-shares",
    }  # fmt: skip
    assert all(content.startswith(b"\x89PNG") and len(content) > 5000 for content in files.values())


def test_same_run_gives_the_same_page(run: Path, page: str) -> None:
    assert write_report(run, title="test", command="gra run x.yaml seed=1").read_text(encoding="utf-8") == page


def test_synthesis_alone_has_a_report(tmp_path: Path) -> None:
    write_arm(tmp_path, CANDIDATES, GRA_FACTS)
    elements = Elements(write_report(tmp_path, title="alone", command="gra synthesize x.yaml").read_text())
    assert "1 dataset: test-gra (2 rows)." in elements.text
    assert {"data", "samples", "cost", "origin"} <= set(elements.ids())
    assert not {"result", "training"} & set(elements.ids())


def test_raw_lineage_without_a_manifest_is_reported(tmp_path: Path) -> None:
    export(tmp_path / "arms" / "gra", CANDIDATES, CARD)
    text = Elements(write_report(tmp_path, title="raw", command="gra report").read_text()).text
    assert "2 of 9 candidates became rows" in text
    assert "not measured on control items" in text


def test_empty_run_says_that_nothing_is_finished(tmp_path: Path) -> None:
    text = Elements(write_report(tmp_path / "empty", title="empty", command="gra run x.yaml").read_text()).text
    assert "Nothing is finished yet" in text


@pytest.mark.parametrize("name", ["manifest.json", "compare/compare.json", "models/a-seed0/metrics.json"])
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"cut')
    with pytest.raises(DataError, match=re.escape(str(tmp_path / name))):
        write_report(tmp_path, title="x", command="x")


def test_endings_add_up(run: Path) -> None:
    arm = next(arm for arm in read_contents(run).arms if arm.committee)
    endings = tally.endings(arm)
    assert {ending.state: ending.count for ending in endings} == GRA_FACTS["states"]
    assert sum(reason.count for ending in endings for reason in ending.reasons) == len(CANDIDATES)


def test_many_reasons_are_summed_up(tmp_path: Path) -> None:
    export(tmp_path, [candidate(i, State.FAILED, f"reason {i}") for i in range(20)], CARD)
    (ending,) = tally.endings(read_contents(tmp_path).arms[0])
    assert len(ending.reasons) == 13
    assert (ending.reasons[-1].name, ending.reasons[-1].count) == ("8 other reasons", 8)


def test_samples_are_the_first_of_each_ending(run: Path) -> None:
    vanilla, gra = read_contents(run).arms
    assert [row["candidate_id"][-1] for row in tally.samples(gra)] == ["0", "1", "2", "3", "4", "5"]
    assert [row["candidate_id"] for row in tally.samples(vanilla)] == ["vanilla-qa-1", "vanilla-qa-2", "vanilla-qa-3"]


@given(st.floats(0, 1), st.integers(1, 200), st.integers(1, 200))
def test_auc_interval_holds_the_auc_and_is_never_a_point(auc: float, good: int, bad: int) -> None:
    low, high = tally.auc_interval(auc, good, bad)
    assert 0 <= low <= auc + 1e-9
    assert auc - 1e-9 <= high <= 1
    assert high - low > 0.003


def test_timeline_shows_what_was_killed_and_leaves_out_the_pause() -> None:
    timeline = read_timeline(KILLED_AND_RESUMED)
    first, second = timeline.sessions
    assert [(s.name, s.seconds, s.outcome) for s in first.spans][-1] == ("synthesis", 18.0, "killed")
    assert second.pause == 7200.0
    assert [s.outcome for s in second.spans] == ["done", "done", "done", "done", "open"]
    assert timeline.worked == 30.0 + 73.0
    assert timeline.at(8230.0 + 5) == 35.0
    assert timeline.first_accepted() == 8.0
    assert [state for _, _, state in timeline.candidates] == ["accepted", "rejected", "accepted"]


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
def test_timeline_starts_anew_after_a_stage_that_broke_off(outcome: str) -> None:
    events = [begin(0, "train", "a"), end(0, 5, "train", outcome), begin(50, "evaluate", "a"), end(50, 60, "evaluate")]
    assert [session.pause for session in read_timeline(events).sessions] == [0, 45]


def test_timeline_of_a_run_that_was_started_once_more() -> None:
    once = [begin(0, "check"), end(0, 1, "check"), begin(1, "compare"), end(1, 3, "compare")]
    again = [begin(100, "check"), end(100, 101, "check"), begin(101, "compare"), end(101, 102, "compare")]
    timeline = read_timeline([*once, *again])
    assert [session.pause for session in timeline.sessions] == [0, 97]
    assert timeline.by_stage() == {"check": 2, "compare": 3}


@pytest.mark.parametrize("back", [0, 3, 500])
def test_timeline_of_a_clock_that_was_set_back(back: float) -> None:
    """In the midst of the second stage, and once more before the run was resumed."""
    events = [
        begin(1000, "check"), end(1000, 1001, "check"), begin(1001, "synthesis"), ended(1005, 1, "accepted"),
        ended(1011 - back, 2, "accepted"), end(1001, 1021, "synthesis") | {"time": 1021 - back},
        begin(1021 - back, "train", "a"), end(1021 - back, 1030 - back, "train", "interrupted"),
        begin(1040 - 2 * back, "train", "a"), end(1040 - 2 * back, 1045 - 2 * back, "train"),
    ]  # fmt: skip
    timeline = read_timeline(events)
    assert [[span.name for span in session.spans] for session in timeline.sessions] == [
        ["check", "synthesis", "train"], ["train"]
    ]  # fmt: skip
    assert timeline.by_stage() == {"check": 1, "synthesis": 20, "train": 14}
    assert all(session.pause >= 0 for session in timeline.sessions)
    moments = [timeline.at(time) for time, _, _ in timeline.candidates]
    assert moments == sorted(moments)
    assert 5 <= moments[-1] <= 21


def test_duration_of_a_stage_does_not_depend_on_the_clock(tmp_path: Path, monkeypatch) -> None:
    moments = iter([5000.0, 4000.0, 3000.0, 2000.0, 1000.0])
    monkeypatch.setattr("gra.core.progress.time.time", lambda: next(moments, 0.0))
    view = View(tmp_path / "log.jsonl", quiet=True)
    with view.stage("train"):
        pass
    (stage,) = [event for event in read_events(tmp_path / "log.jsonl") if event["event"] == "stage"]
    assert stage["began"] == 5000.0
    assert 0 <= stage["ended"] - stage["began"] < 60


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.sampled_from(["done", "interrupted", "cut"]))))
def test_timeline_keeps_every_second_once(steps: list[tuple[int, int, str]]) -> None:
    events, now = [], 0.0
    for number, (wait, work, outcome) in enumerate(steps):
        now += 2 + wait
        events.append(begin(now, f"stage{number}"))
        now += work
        events.append({"time": now, "event": "note", "text": "working"})
        if outcome != "cut":
            events.append(end(now - work, now, f"stage{number}", outcome))
    timeline = read_timeline(events)
    assert sum(len(session.spans) for session in timeline.sessions) == len(steps)
    if steps:
        wall = now - (2 + steps[0][0])
        assert timeline.worked + sum(session.pause for session in timeline.sessions) == pytest.approx(wall)
        moments = [timeline.at(moment) for moment in range(int(now) + 2)]
        assert moments == sorted(moments)
        assert moments[-1] == pytest.approx(timeline.worked)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")],
)
def test_duration_is_readable(seconds: float, text: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == text


def explained(run: Path, name: str, width: int = 120) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width).print(explain(run, name))
    return screen.getvalue()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (0, ["ACCEPTED", "reviewers agree", "qa-1: Seed question 1?", "tide · owl · bread", "mean 7.50", "0.410"]),
        (1, ["ACCEPTED", "adjudicator kept it", "disputed", "dot scores 7.25: kept", "Fine after all."]),
        (2, ["REJECTED", "mean score too low", "mean 2.50"]),
        (3, ["REJECTED", "adjudicator rejected it", "dot scores 3.00: rejected", "Wrong."]),
        (4, ["REJECTED", "instruction: clear", "0.11", "Instruction 4."]),
        (5, ["DUPLICATE", "too similar to r1-000000", "cosine 0.970: Instruction 0."]),
        (6, ["CONTAMINATED", "repeats a test item of arc", "arc-7 of arc (ngram 0.90, 13 words in a row); 1 more"]),
        (7, ["SURPLUS", "after the round was full"]),
        (8, ["FAILED", "answer cut off at the length limit", "not written"]),
    ],
)  # fmt: skip
def test_explain_shows_every_ending(run: Path, index: int, words: list[str]) -> None:
    text = explained(run, f"r1-{index:06d}")
    always = [
        "generator ada",
        "reviewers ben, cy",
        "adjudicator dot",
        "generator 2 calls, 100 + 20 tokens",
        "2 answers",
    ]
    assert [word for word in [*words, *always] if word not in text] == []


def test_explain_shows_markup_as_it_is(run: Path) -> None:
    text = " ".join(line.strip("│ ") for line in explained(run, "r1-000002", width=200).splitlines())
    assert HOSTILE in text


def test_explain_gives_the_terminal_nothing_to_obey(tmp_path: Path) -> None:
    row = candidate(0, State.FAILED, "x" + ESCAPE, instruction=ESCAPE, keywords=(ESCAPE,), generator=ESCAPE)
    export(tmp_path, [row], CARD)
    text = explained(tmp_path, row.id)
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "owned" in text


def test_explain_folds_long_texts(tmp_path: Path) -> None:
    export(tmp_path, [candidate(0, State.FAILED, "x", instruction="word " * 4000)], CARD)
    text = explained(tmp_path, "r1-000000")
    assert "18,800 more characters" in text
    assert len(text.splitlines()) < 40


def test_explain_names_close_ids(run: Path) -> None:
    with pytest.raises(DataError, match=r"no candidate `r1-00003`.*close: .*r1-000003"):
        explain(run, "r1-00003")
    with pytest.raises(DataError, match="ids look like r1-000000"):
        explain(run, "zzz")


def test_explain_without_lineage_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no lineage\.parquet"):
        explain(tmp_path, "r1-000000")


def test_importing_draws_and_trains_nothing() -> None:
    code = (
        "import sys, gra.reports.html, gra.runs.explain; "
        "print([m for m in ('matplotlib', 'torch', 'transformers', 'vllm', 'lm_eval', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_students_are_folded_into_a_lane_and_a_legend_entry_for_each_arm() -> None:
    from gra.reports import time_figures
    from gra.runs.timeline import Session, Span, Timeline

    spans = [Span("train", f"arm{n // 3}-seed{n % 3}", 10.0 * n, 10.0 * n + 5, "done") for n in range(36)]

    def lanes(count: int) -> list[str]:
        (axis,) = time_figures.timeline(Timeline([Session(spans[:count])])).axes
        return [label.get_text() for label in axis.get_yticklabels()]

    assert lanes(36) == [f"train arm{n}" for n in range(12)]
    assert lanes(6) == [f"train arm{n // 3}-seed{n % 3}" for n in range(6)]
    curves = {(f"arm{n // 3}", f"seed{n % 3}"): {"train": [(1, 2.0), (2, 1.0)]} for n in range(36)}
    figure = time_figures.training(curves)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"arm{n}" for n in range(12)]
    few = time_figures.training(dict(list(curves.items())[:3]))
    assert [text.get_text() for text in few.axes[0].get_legend().get_texts()] == [f"arm0, seed{n}" for n in range(3)]
