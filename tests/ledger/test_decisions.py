"""People's decisions in a ledger: durable at once, shared by several processes, and found when they were changed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gra.core.errors import DataError, Mismatch
from gra.core.types import HumanDecision
from gra.core.vocabulary import HumanVerdict
from gra.ledger.decisions import DecisionLog
from gra.ledger.ledger import Ledger
from gra.ledger.reader import LedgerReader
from gra.ledger.schema import check, compact

WRITER = """
import sys, itertools
from pathlib import Path
from gra.core.types import HumanDecision
from gra.core.vocabulary import HumanVerdict
from gra.ledger.decisions import DecisionLog
log = DecisionLog(Path(sys.argv[1]), "one")
for n in itertools.count():
    log.add(f"r1-{n:06d}", HumanDecision("human:ann", HumanVerdict.KEEP, 1.0, "s"))
    print(n, flush=True)
"""


def decision(verdict: HumanVerdict = HumanVerdict.KEEP, name: str = "ann", response: str = "") -> HumanDecision:
    return HumanDecision(f"human:{name}", verdict, 1764.25, "subject", "", response)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    Ledger(tmp_path / "ledger.sqlite", "one").close()
    return tmp_path / "ledger.sqlite"


def test_log_keeps_order_and_texts_of_each_run(ledger: Path) -> None:
    log, other = DecisionLog(ledger, "one"), DecisionLog(ledger, "two")
    edit = decision(HumanVerdict.EDIT, response="odd \x00 \u2028 🦉\r\n'\"")
    first = log.add("a", decision())
    other.add("a", decision(name="eve"))
    second = log.add("b", edit)
    assert log.since() == [(first, "a", decision()), (second, "b", edit)]
    assert log.since(first) == [(second, "b", edit)]
    for each in (log, other):
        each.close()
    reader = LedgerReader(ledger)
    assert reader.decisions("one") == {"a": [decision()], "b": [edit]}
    assert reader.decisions("three") == {}
    reader.close()
    compact(ledger)
    assert len(DecisionLog(ledger, "one").since()) == 2


def test_ledger_without_decisions_has_none(ledger: Path) -> None:
    reader = LedgerReader(ledger)
    assert reader.decisions("one") == {}
    assert list(reader.problems()) == []


def test_killed_writer_loses_nothing_that_it_reported(ledger: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(ledger)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(5):
        reported = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    reported = max([reported, *map(int, child.stdout.read().split())])
    child.wait()
    found = DecisionLog(ledger, "one").since()
    assert [candidate for _, candidate, _ in found][: reported + 1] == [f"r1-{n:06d}" for n in range(reported + 1)]


def test_several_people_write_at_once(ledger: Path) -> None:
    def write(name: str) -> None:
        log = DecisionLog(ledger, "one")
        for n in range(10):
            log.add(f"c{n}", decision(name=name))
        log.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in ("ann", "bob", "cy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = DecisionLog(ledger, "one").since()
    assert sorted((c, d.reviewer) for _, c, d in found) == sorted(
        (f"c{n}", f"human:{name}") for n in range(10) for name in ("ann", "bob", "cy")
    )


@pytest.mark.parametrize(
    "change", ["verdict = 'drop'", "reviewer = 'human:eve'", "written = 1", "response = 'x'", "verdict = 'sell'"]
)
def test_changed_decision_is_found(ledger: Path, change: str) -> None:
    log = DecisionLog(ledger, "one")
    log.add("a", decision())
    with sqlite3.connect(ledger) as db:
        db.execute(f"UPDATE decisions SET {change}")
    with pytest.raises(DataError, match="decision about a of `one` is not what was written"):
        log.since()
    with pytest.raises(DataError, match="is not what was written"):
        LedgerReader(ledger).decisions("one")
    with pytest.raises(Mismatch, match="decision about a of `one`"):
        check(ledger)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no ledger"):
        DecisionLog(tmp_path / "none.sqlite", "one")
    assert not (tmp_path / "none.sqlite").exists()
    (tmp_path / "noise.sqlite").write_bytes(b"noise" * 999)
    with pytest.raises(DataError, match="damaged or not a ledger"):
        DecisionLog(tmp_path / "noise.sqlite", "one")
