"""Filters, orders and counts of the desk's list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk_runs import read_desk, write_dataset, write_recipe, write_verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from reported_run import review, reviewed

from gra.core.types import State
from gra.core.vocabulary import RejectedAt
from gra.desk.index import CandidateIndex, Filters, draw_of
from gra.desk.sources import ListedCandidate


def listed(number: int, **changes: object) -> ListedCandidate:
    values: dict[str, object] = {
        "id": f"r1-{number:06d}", "round": 1, "state": "accepted", "step": "", "reason": "", "domain": "qa",
        "generator": "a", "disputed": False, "mean": 7.0, "std": 0.5, "instruction": f"Ask {number}",
        "response": f"Say {number}", "place": number,
    }  # fmt: skip
    return ListedCandidate(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def index() -> Iterator[CandidateIndex]:
    made = CandidateIndex("run")
    yield made
    made.close()


def ids(index: CandidateIndex, order: str = "listed", **filters: object) -> list[int]:
    return [int(row["id"][3:]) for row in index.listed(Filters(**filters), order, 0, 1000)[0]]  # type: ignore[arg-type]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["accepted", "rejected", "failed"]),
        st.sampled_from(["qa", "math"]),
        st.none() | st.floats(0, 10),
        st.booleans(),
        st.sampled_from(["Owls", "ÖLE", "100%_'\"", "tides"]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sampled_from(["", "accepted"]), st.none() | st.floats(0, 10), st.booleans(),
       st.sampled_from(["", "owl", "öl", "%_'", "ask 1"]))  # fmt: skip
def test_filter_gives_what_plain_python_gives(
    rows: list[tuple[str, str, float | None, bool, str]], state: str, low: float | None, disputed: bool, text: str
) -> None:
    index = CandidateIndex("run")
    index.add([listed(n, state=s, domain=d, mean=m, disputed=x, response=t) for n, (s, d, m, x, t) in enumerate(rows)])
    expected = [
        n
        for n, (s, _, m, x, t) in enumerate(rows)
        if (not state or s == state)
        and (low is None or (m is not None and m >= low))
        and (x or not disputed)
        and text in f"ask {n}\n{t}".lower()
    ]
    filters = {"state": state, "low": low, "disputed": disputed, "text": text}
    assert ids(index, **filters) == expected
    assert index.listed(Filters(**filters), "listed", 0, 1)[1] == len(expected)  # type: ignore[arg-type]
    assert sorted(ids(index, "random", **filters)) == expected
    index.close()


def test_orders(index: CandidateIndex) -> None:
    index.add([listed(0, mean=8.0, std=0.1), listed(1, mean=None, std=None), listed(2, mean=5.0, std=2.0),
               listed(3, mean=6.0, std=0.2, disputed=True)])  # fmt: skip
    assert ids(index, "listed") == [0, 1, 2, 3]
    assert ids(index, "newest") == [3, 2, 1, 0]
    assert ids(index, "disagreement") == [3, 2, 0, 1]
    assert ids(index, "doubt") == [3, 2, 0, 1]
    assert ids(index, "lowest") == [2, 3, 0, 1]
    assert ids(index, "highest")[:3] == [0, 3, 2]
    assert ids(index, "random") == sorted(range(4), key=lambda n: draw_of("run", f"r1-{n:06d}"))


def test_few_reviews_come_before_a_wide_spread_in_the_order_by_doubt(index: CandidateIndex) -> None:
    index.add([listed(0, std=1.0, reviews=2), listed(1, mean=9.0, std=0.0, reviews=1), listed(2, std=2.0, reviews=2),
               listed(3, mean=None, std=None), listed(4, std=3.0, reviews=2, disputed=True),
               listed(5, std=0.0, reviews=1)])  # fmt: skip
    assert ids(index, "doubt") == [4, 5, 1, 2, 0, 3]


def test_row_of_one_reviewer_says_so_in_every_source(tmp_path: Path) -> None:
    alone = (review("ben", 8.8, 'He said "reviewer": {"reviewer":1}.'),)
    made = [reviewed(0, State.ACCEPTED, "reviewers agree", (8.0, 8.0)),
            reviewed(1, State.ACCEPTED, "reviewers agree", (8.8, 8.8), reviews=alone)]  # fmt: skip
    write_recipe(tmp_path)
    write_verdicts(tmp_path, made)
    for finish in (False, True):
        if finish:
            write_dataset(tmp_path, made)
        with read_desk(tmp_path) as desk:
            assert [row["reviews"] for row in desk.index.listed(Filters(), "doubt", 0, 9)[0]] == [1, 2]
            both, one = (desk.candidate(each.id) or {} for each in made)
            assert (both["reason"], one["reason"]) == ("reviewers agree", "one reviewer alone")
            assert "from one reviewer alone" in one["sections"][0]["note"]
            assert [part["sections"][0]["columns"][-1] for part in (both, one)] == ["ethicality (raw)", "comment"]


def test_replaced_candidate_keeps_its_place(index: CandidateIndex) -> None:
    index.add([listed(0), listed(1)])
    index.add([listed(0, state="duplicate")])
    assert ids(index) == [0, 1]
    assert ids(index, state="duplicate") == [0]
    assert index.facets()["state"] == {"accepted": 1, "duplicate": 1}


def test_verdicts_and_kinds_filter(index: CandidateIndex) -> None:
    index.add([listed(n) for n in range(4)])
    index.decide({"r1-000001": ("keep", "human:ann"), "r1-000002": ("drop", "human:bob")})
    index.set_kinds({"r1-000000": ["words_at_most"], "r1-000003": ["words", "json_keys"], "r1-000001": []})
    assert ids(index, decided="open") == [0, 3]
    assert ids(index, decided="decided") == [1, 2]
    assert ids(index, decided="drop") == [2]
    assert ids(index, kind="words") == [3]
    assert index.facets()["kind"] == {"words_at_most": 1, "words": 1, "json_keys": 1}
    assert index.without_kinds(9) == [("r1-000002", "Ask 2")]
    index.decide({"r1-000001": ("", "")})
    assert ids(index, decided="open") == [0, 1, 3]


def test_taken_are_those_that_people_kept_or_edited_against_another_step(index: CandidateIndex) -> None:
    steps = ("mean_score", "verifier", "same_text", "verifier")
    index.add([listed(0), *(listed(n, state="rejected", step=step) for n, step in enumerate(steps, 1))])
    index.decide({f"r1-{n:06d}": (("keep", "drop", "edit")[n % 3], "human:ann") for n in range(5)})
    assert index.taken(RejectedAt.MEAN_SCORE) == 2


def test_random_order_does_not_depend_on_what_is_there(index: CandidateIndex) -> None:
    index.add([listed(n) for n in range(50)])
    before = ids(index, "random")
    index.add([listed(n) for n in range(50, 99)])
    assert [n for n in ids(index, "random") if n < 50] == before
    assert before != sorted(before)
