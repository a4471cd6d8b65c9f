"""The ledger as a file: older and newer ones, damage, care, and several processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.cli.main import main
from gra.core.errors import DataError, GraError, Mismatch
from gra.core.hashing import canonical_json, digest
from gra.ledger.budget import GpuTime
from gra.ledger.ledger import Ledger, Recorded
from gra.ledger.reader import LedgerReader
from gra.ledger.schema import SCHEMA_VERSION, check, compact

# The tables of the first release, as it made them.
VERSION_1 = """
CREATE TABLE calls (
  key TEXT PRIMARY KEY, run TEXT NOT NULL, role TEXT NOT NULL, member TEXT NOT NULL, model TEXT NOT NULL,
  candidate TEXT NOT NULL, attempt INTEGER NOT NULL, request TEXT NOT NULL, text TEXT NOT NULL,
  finish TEXT NOT NULL, scores TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, seconds REAL NOT NULL, written REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE verdicts (
  run TEXT NOT NULL, candidate TEXT NOT NULL, story TEXT NOT NULL, written REAL NOT NULL,
  PRIMARY KEY (run, candidate)
) WITHOUT ROWID;
CREATE TABLE faults (
  run TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, candidate TEXT NOT NULL,
  kind TEXT NOT NULL, message TEXT NOT NULL, written REAL NOT NULL
);
PRAGMA user_version=1;
"""


def answer(number: int, text: str = "yes", role: str = "reviewer") -> Recorded:
    request = {"version": 1, "number": number}
    candidate = f"r1-{number:06d}"
    return Recorded(
        digest(request), role, "a", "model-a", candidate, 0, canonical_json(request), text, "stop", {"yes": 0.75},
        10, 2, 4, 0.5,
    )  # fmt: skip


def fill(path: Path, run: str, numbers: range, text: str = "yes", pause_s: float = 0.0) -> None:
    """What one process writes: answers one after another and a verdict on each."""
    ledger = Ledger(path, run)

    async def scenario() -> None:
        for number in numbers:
            stands = await ledger.record(answer(number, text))
            assert stands == ledger.lookup(stands.key)  # what is used is what is recorded
            await ledger.conclude(f"r1-{number:06d}", {"run": run, "text": stands.text}, "s")
            await asyncio.sleep(pause_s)

    asyncio.run(scenario())
    ledger.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    fill(tmp_path / "ledger.sqlite", "one", range(20), text="a long answer " * 300)
    return tmp_path / "ledger.sqlite"


def change(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def test_a_sound_ledger_is_counted(filled: Path) -> None:
    found = check(filled)
    assert found.runs == {"one": {"answers": 20, "verdicts": 20, "faults": 0}}
    assert found.key_versions == {"1": 20}
    assert found.without_request == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE calls SET text = 'no' WHERE id = 7", "is not what was written"),
        ("UPDATE calls SET scores = '{\"yes\": 1.0}' WHERE id = 7", "is not what was written"),
        ("UPDATE calls SET completion_tokens = 0", r"is not what was written \(and 19 more\)"),
        ("UPDATE calls SET request = '{}' WHERE id = 7", "does not belong to the question"),
        ("UPDATE verdicts SET story = '{' WHERE candidate = 'r1-000003'", "the verdict on r1-000003 of `one`"),
        (
            "UPDATE verdicts SET story = replace(story, 'long', 'lomg') WHERE candidate = 'r1-000003'",
            "the verdict on r1-000003 of `one` is not what was written",
        ),
        ("UPDATE verdicts SET candidate = 'r1-000099' WHERE candidate = 'r1-000003'", "the verdict on r1-000099"),
        ("UPDATE verdicts SET seal = seal + 1", r"is not what was written \(and 19 more\)"),
        (
            "UPDATE verdicts SET story = CAST(X'7B22FF' AS TEXT) WHERE candidate = 'r1-000003'",
            "the verdict on r1-000003 of `one` cannot be read",
        ),
        ("UPDATE calls SET text = CAST(X'FF' AS TEXT) WHERE id = 7", "is not what was written"),
        ("DROP TABLE verdicts", "cannot be read to its end"),
        ("ALTER TABLE calls RENAME COLUMN seal TO seel", "cannot be read to its end"),
    ],
)
def test_a_row_that_is_not_what_was_written_is_found(filled: Path, damage: str, message: str) -> None:
    change(filled, damage)
    with pytest.raises(Mismatch, match=message):
        check(filled)
    before = filled.read_bytes()
    with pytest.raises(Mismatch):
        compact(filled)
    assert filled.read_bytes() == before


def test_an_answer_that_was_changed_is_never_used(filled: Path) -> None:
    change(filled, "UPDATE calls SET scores = '{\"yes\": 1.0}' WHERE id = 7")
    ledger = Ledger(filled, "one")
    assert ledger.lookup(answer(0).key) is not None
    with pytest.raises(DataError, match="damaged"):
        ledger.lookup(answer(6).key)
    ledger.close()


def test_changed_verdict_is_never_used(filled: Path) -> None:
    change(filled, "UPDATE verdicts SET story = replace(story, 'long', 'lomg') WHERE candidate = 'r1-000003'")
    ledger = Ledger(filled, "one")
    assert ledger.candidate_record("r1-000002", "s") is not None
    with pytest.raises(DataError, match="the verdict on r1-000003 is not what was written"):
        ledger.candidate_record("r1-000003", "s")
    with pytest.raises(DataError, match="r1-000003"):
        list(ledger.candidate_records("r1-000000", "r1-999999", "s"))
    ledger.close()


def as_version_2(path: Path) -> None:
    """Take the seals of verdicts out, as the release before wrote them."""
    change(path, "ALTER TABLE verdicts DROP COLUMN seal")
    change(path, "PRAGMA user_version=2")


def test_verdicts_of_version_2_are_sealed_when_the_ledger_is_opened(filled: Path) -> None:
    as_version_2(filled)
    reader = LedgerReader(filled)
    assert list(reader.problems()) == []  # read as it is, and left as it is
    reader.close()
    ledger = Ledger(filled, "one")
    assert ledger.candidate_record("r1-000003", "s") == {"run": "one", "text": "a long answer " * 300}
    ledger.close()
    assert check(filled).runs == {"one": {"answers": 20, "verdicts": 20, "faults": 0}}
    change(filled, "UPDATE verdicts SET story = replace(story, 'long', 'lomg') WHERE candidate = 'r1-000003'")
    with pytest.raises(Mismatch, match="r1-000003"):
        check(filled)


def test_damaged_verdict_of_version_2_is_not_sealed_by_a_check(filled: Path) -> None:
    as_version_2(filled)
    change(filled, "UPDATE verdicts SET story = '{' WHERE candidate = 'r1-000003'")
    before = filled.read_bytes()
    with pytest.raises(Mismatch, match="the verdict on r1-000003 of `one` cannot be read"):
        check(filled)
    assert filled.read_bytes() == before


def harm_at_random(path: Path, offsets: list[int], cut: int | None) -> None:
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset % len(content)] ^= 1 << (offset % 8)
    path.write_bytes(bytes(content if cut is None else content[: cut % len(content)]))


@settings(max_examples=60, deadline=None)
@given(offsets=st.lists(st.integers(0, 10**7), max_size=4), cut=st.none() | st.integers(0, 10**7))
def test_damaged_file_gives_a_sentence_everywhere(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[int], cut: int | None
) -> None:
    """Flip bits and cut the file short, beside a journal of the whole one."""
    path = tmp_path_factory.mktemp("harmed") / "ledger.sqlite"
    writer = Ledger(path, "one")

    async def scenario() -> None:
        for number in range(3):
            await writer.record(answer(number))
            await writer.conclude(f"r1-{number:06d}", {"n": number}, "s")

    asyncio.run(scenario())
    beside = path.with_name("kept-wal")
    beside.write_bytes(path.with_name("ledger.sqlite-wal").read_bytes())
    writer.close()
    beside.rename(path.with_name("ledger.sqlite-wal"))
    harm_at_random(path, offsets, cut)

    def run() -> None:
        ledger = Ledger(path, "one")
        try:
            found = dict(ledger.candidate_records("r1-000000", "r1-999999", "s"))
            assert all(record == {"n": int(name[-1])} for name, record in found.items())
            list(ledger.answers())
            GpuTime(path, "one").before()
            asyncio.run(ledger.conclude("r1-000009", {}, "s"))
        finally:
            ledger.close()

    def read() -> None:
        reader = LedgerReader(path)
        list(reader.problems())
        list(reader.accounts())
        reader.verdicts("one")
        reader.close()

    for use in (read, lambda: check(path), run, lambda: compact(path)):
        with contextlib.suppress(GraError):
            use()


def test_compacting_gives_back_space_and_loses_no_answer(filled: Path) -> None:
    change(filled, "DELETE FROM calls WHERE id > 4")
    before, after = compact(filled)
    assert after < 0.8 * before
    assert check(filled).runs["one"]["answers"] == 4
    compact(filled, drop_requests=True)
    assert check(filled).without_request == 4
    ledger = Ledger(filled, "one")
    kept = ledger.lookup(answer(3).key)
    assert kept is not None
    assert (kept.text, kept.request) == ("a long answer " * 300, "")
    assert ledger.candidate_record("r1-000003", "s") == {"run": "one", "text": "a long answer " * 300}
    ledger.close()


def test_a_ledger_of_the_first_release_is_taken_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    for number in range(5):
        a = answer(number)
        db.execute(f"INSERT INTO calls VALUES ({', '.join('?' * 16)})", (
            a.key, "one", a.role, a.member, a.model, a.candidate, a.attempt, a.request, a.text, a.finish,
            json.dumps(a.scores), a.prompt_tokens, a.completion_tokens, a.cached_tokens, a.seconds, 10.0 - number,
        ))  # fmt: skip
    db.execute("INSERT INTO verdicts VALUES ('one', 'r1-000000', ?, 1.0)", (json.dumps({"scope": "s", "story": {}}),))
    db.execute("INSERT INTO faults VALUES ('one', 'reviewer', 'model-a', 'r1-000000', 'died', 'gone', 1.0)")
    db.commit()
    db.close()
    ledger = Ledger(path, "one")
    assert list(ledger.answers()) == [answer(number) for number in (4, 3, 2, 1, 0)]  # in the order of writing
    assert (ledger.spent(), ledger.candidate_record("r1-000000", "s"), ledger.faults()) == (60, {}, {"died": 1})
    ledger.close()
    assert check(path).runs == {"one": {"answers": 5, "verdicts": 1, "faults": 1}}
    left = sqlite3.connect(path)
    assert not left.execute("SELECT name FROM sqlite_master WHERE name LIKE 'old_%'").fetchall()
    left.close()


@pytest.mark.parametrize("use", [lambda p: Ledger(p, "one"), check, compact])
def test_a_ledger_of_a_newer_release_is_refused_and_left_as_it_is(filled: Path, use: Callable[[Path], object]) -> None:
    change(filled, f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = filled.read_bytes()
    with pytest.raises(DataError, match=r"written by a newer GRA .* was left as it is; update GRA"):
        use(filled)
    assert filled.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "bookmarks.sqlite"
    change(file, "CREATE TABLE bookmarks (address TEXT)")
    before = file.read_bytes()
    with pytest.raises(DataError, match="another program and was left as it is"):
        Ledger(file, "one")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"words, and no ledger " * 300])
def test_what_is_no_ledger_is_not_made_one_by_looking_at_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    for look in (check, compact):
        with pytest.raises(DataError, match="not a ledger"):
            look(file)
    assert file.read_bytes() == content
    with pytest.raises(DataError, match="there is no ledger"):
        check(tmp_path / "nowhere")


def test_two_processes_share_a_ledger_and_agree_on_every_answer(tmp_path: Path) -> None:
    """Both ask the same questions at the same time and get other answers: the first one stands for both."""
    path = tmp_path / "shared.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=fill, args=(path, run, range(150), f"said to {run}", 0.0005)) for run in ("one", "two")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = check(path)
    assert sum(counts["answers"] for counts in found.runs.values()) == 150
    assert all(counts["verdicts"] == 150 for counts in found.runs.values())
    one, two = Ledger(path, "one"), Ledger(path, "two")
    told = [dict(ledger.candidate_records("r1-000000", "r1-999999", "s")) for ledger in (one, two)]
    assert [s["text"] for s in told[0].values()] == [s["text"] for s in told[1].values()]
    assert one.spent() + two.spent() == 150 * 12  # each answer is on one account only
    one.close()
    two.close()


def test_many_may_make_the_file_at_the_same_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "new.sqlite"
    makers = [context.Process(target=fill, args=(path, f"run-{i}", range(3))) for i in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0] * 4
    assert sum(counts["answers"] for counts in check(path).runs.values()) == 3


def test_accounts_by_role_and_model(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "one")

    async def scenario() -> None:
        for number, role in enumerate(["generator", "reviewer", "reviewer"]):
            await ledger.record(answer(number, role=role))

    asyncio.run(scenario())
    each = {"calls": 1, "prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4}
    assert ledger.paid("role") == {"generator": each, "reviewer": {key: 2 * value for key, value in each.items()}}
    assert ledger.paid("model") == {"model-a": {key: 3 * value for key, value in each.items()}}
    ledger.close()


def test_stories_come_in_candidate_order_and_only_of_their_scope(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "one")

    async def scenario() -> None:
        for number in (3, 1, 2):
            await ledger.conclude(f"r1-{number:06d}", {"n": number}, "old" if number == 2 else "new")
        await ledger.conclude("r2-000000", {}, "new")

    asyncio.run(scenario())
    told = [("r1-000001", {"n": 1}), ("r1-000003", {"n": 3})]
    assert list(ledger.candidate_records("r1-000000", "r1-999999", "new")) == told
    ledger.close()


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_command_line_checks_and_compacts(filled: Path, capsys) -> None:
    code, out, _ = run(capsys, "ledger", "check", str(filled.parent), "--json")
    assert code == 0
    assert json.loads(out)["runs"]["one"]["answers"] == 20
    assert run(capsys, "ledger", "compact", str(filled))[0] == 0
    change(filled, "UPDATE calls SET text = 'no' WHERE id = 7")
    code, _, err = run(capsys, "ledger", "check", str(filled))
    assert code == 5
    assert err.startswith("error: ")
    assert "is not what was written" in err
