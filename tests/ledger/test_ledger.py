"""The ledger: durable before it says so, grouped, replayed, and clear about every way a file can fail."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.core.errors import DataError
from gra.ledger.ledger import Ledger, Recorded
from gra.ledger.schema import SCHEMA_VERSION


def answer(key: str = "k", **changes: object) -> Recorded:
    made = Recorded(key, "reviewer", "a", "model-a", "r1-000000", 0, "{}", "yes", "stop", {"yes": 0.75}, 10, 2, 4, 0.5)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_was_recorded_is_found_by_a_later_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    first = Ledger(path, "run")
    asyncio.run(first.record(answer()))
    assert first.lookup("k") == answer()
    assert first.lookup("other") is None
    first.close()
    again = Ledger(path, "run")
    assert again.lookup("k") == answer()
    assert list(again.answers()) == [answer()]
    again.close()


def test_record_returns_only_when_another_connection_can_read_it(ledger: Ledger) -> None:
    async def scenario() -> None:
        await ledger.record(answer())
        other = sqlite3.connect(ledger.path)
        assert other.execute("SELECT text FROM calls").fetchall() == [("yes",)]
        other.close()

    asyncio.run(scenario())
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: a commit is on the disk
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_writes_that_arrive_together_share_commits(ledger: Ledger) -> None:
    commits = []
    commit = ledger._commit
    ledger._commit = lambda batch: (commits.append(len(batch)), commit(batch))[1]  # type: ignore[method-assign]

    async def scenario() -> None:
        await asyncio.gather(*(ledger.record(answer(f"k{i}")) for i in range(300)))

    asyncio.run(scenario())
    assert sum(commits) == 300
    assert len(commits) <= 3
    assert len(list(ledger.answers())) == 300


def test_the_first_answer_stands(ledger: Ledger) -> None:
    async def scenario() -> None:
        await ledger.record(answer(text="first"))
        await ledger.record(answer(text="second"))

    asyncio.run(scenario())
    found = ledger.lookup("k")
    assert found is not None
    assert found.text == "first"


def test_runs_that_share_a_ledger_share_answers_but_not_verdicts_or_accounts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    one, two = Ledger(path, "one"), Ledger(path, "two")

    async def scenario() -> None:
        await one.record(answer())
        await one.conclude("r1-000000", {"state": "accepted"})
        await one.fault("reviewer", "model-a", "r1-000000", "died", "gone")

    asyncio.run(scenario())
    assert two.lookup("k") == answer()
    assert (one.spent(), two.spent()) == (12, 0)
    assert (one.candidate_record("r1-000000"), two.candidate_record("r1-000000")) == ({"state": "accepted"}, None)
    assert (one.faults(), two.faults()) == ({"died": 1}, {})
    one.close()
    two.close()


def test_a_verdict_is_kept_whole(ledger: Ledger) -> None:
    story = {"id": "r1-000001", "text": "naïve ☃ \u2028", "scores": [1.5, None], "nested": {"a": [1]}}
    asyncio.run(ledger.conclude("r1-000001", story))
    assert ledger.candidate_record("r1-000001") == story
    assert ledger.candidate_record("r1-000002") is None


def test_the_last_candidate_of_a_round_is_by_its_calls_and_by_none_before_a_given_one(ledger: Ledger) -> None:
    assert ledger.last_answer() == 0

    async def scenario() -> None:
        await ledger.record(answer(candidate="r1-000007"))
        await ledger.conclude("r1-000008", {})
        await ledger.record(answer("k2", candidate="r10-000009"))
        await ledger.record(answer("k3", candidate="probe-good-x"))

    asyncio.run(scenario())
    assert ledger.last_candidate("r1-000000", "r1-999999", since=0) == "r1-000007"
    assert ledger.last_candidate("r10-000000", "r10-999999", since=0) == "r10-000009"
    assert ledger.last_candidate("r2-000000", "r2-999999", since=0) is None
    assert ledger.last_candidate("r1-000000", "r1-999999", since=ledger.last_answer()) is None


@settings(max_examples=5)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=50), probability=st.floats(0, 1))
def test_any_text_and_score_comes_back_as_it_was(tmp_path_factory, texts: list[str], probability: float) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "l.sqlite", "run")
    made = [answer(f"k{i}", text=text, request=text, scores={text: probability}) for i, text in enumerate(texts)]

    async def scenario() -> None:
        await asyncio.gather(*(ledger.record(one) for one in made))

    asyncio.run(scenario())
    assert [ledger.lookup(one.key) for one in made] == made
    ledger.close()


def test_a_ledger_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path, "run").close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(DataError, match=r"written by a newer GRA .*update GRA") as caught:
        Ledger(path, "run")
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a database, it only lies where one should be" * 100)
    with pytest.raises(DataError, match=r"ledger\.sqlite is damaged or not a ledger"):
        Ledger(path, "run")


def test_damage_inside_is_an_error_and_never_a_lost_answer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path, "run")
    asyncio.run(ledger.record(answer("k", text="x" * 50_000)))
    asyncio.run(ledger.conclude("r1-000000", {"text": "y" * 50_000}))
    ledger.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    harmed = Ledger(path, "run")
    uses = (
        lambda: harmed.lookup("k"),
        lambda: harmed.candidate_record("r1-000000"),
        lambda: list(harmed.answers()),
        harmed.spent,
    )
    for read in uses:
        with pytest.raises(DataError, match="damaged"):
            read()
    harmed.close()


def test_a_folder_that_cannot_be_written_is_named() -> None:
    # /proc refuses new files even to the superuser.
    with pytest.raises(DataError, match=r"cannot be written; check its rights .* another with `ledger` or --runs"):
        Ledger(Path("/proc/self/ledger.sqlite"), "run")


def test_a_full_disk_says_so_keeps_what_was_written_and_goes_on_when_there_is_room(ledger: Ledger) -> None:
    async def fill() -> None:
        await ledger.record(answer("before"))
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count={pages + 2}")
        outcomes = await asyncio.gather(
            *(ledger.record(answer(f"k{i}", text="x" * 20_000)) for i in range(5)), return_exceptions=True
        )
        assert all(isinstance(outcome, DataError) for outcome in outcomes)
        assert "no space left on the disk" in str(outcomes[0])
        assert ledger.lookup("k0") is None
        ledger._db.execute("PRAGMA max_page_count=100000")
        await ledger.record(answer("k0"))

    asyncio.run(fill())
    assert {found.key for found in ledger.answers()} == {"before", "k0"}


def test_a_row_that_cannot_be_written_fails_its_writer_and_leaves_the_ledger_working(ledger: Ledger) -> None:
    async def scenario() -> None:
        with pytest.raises(UnicodeEncodeError):
            await asyncio.wait_for(ledger.record(answer(text="\ud83d")), timeout=5)
        await asyncio.wait_for(ledger.record(answer("next")), timeout=5)

    asyncio.run(scenario())
    assert ledger.lookup("next") is not None
