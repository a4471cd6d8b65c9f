"""Small runs for the tests of the desk: finished ones from candidates, and ones under way from a ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reported_run import CARD, HOSTILE, candidate, reviewed
from scripted_run import open_ledger

from gra.core.run_folder import RunFolder
from gra.core.types import Candidate, State
from gra.data.export import export
from gra.desk.desk import Desk

NAME = "desk-run"
CANDIDATES = [
    *(
        reviewed(n, State.ACCEPTED, "reviewers agree", (6.5 + n / 10, 7.5 + n / 20), instruction=f"Name {n} fruits.")
        for n in range(12)
    ),
    reviewed(12, State.ACCEPTED, "adjudicator kept it", (9.5, 4.5), disputed=True),
    reviewed(13, State.REJECTED, "response: mean score too low", (2.0, 3.0), response=HOSTILE, instruction=HOSTILE),
    reviewed(14, State.ACCEPTED, "reviewers agree", (7.0, 8.0), instruction="Write the word BIG.\x1b[2J\u202e",
             response="line\r\nÄÖ \x00 end"),
    reviewed(15, State.DUPLICATE, "same text as r1-000001", (7.0, 7.0), neighbour="r1-000001", similarity=1.0),
    reviewed(16, State.ACCEPTED, "reviewers agree", (7.0, 9.0), response="long " * 200_000),
    candidate(17, State.FAILED, "generator ada: answer cut off at the length limit", keywords=(), instruction=""),
    reviewed(18, State.ACCEPTED, "reviewers agree", (8.0, 8.0), instruction="Use at most 20 words to praise tides."),
]  # fmt: skip


def write_recipe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.resolved.yaml").write_text(json.dumps({"name": NAME, "review": {"accept_mean": 6.0}}))


def write_verdicts(folder: Path, candidates: Iterable[Candidate], scope: str = "scope") -> None:
    """Add verdicts to the ledger of a run that is under way."""

    async def write() -> None:
        ledger = open_ledger(folder / "ledger.sqlite", NAME)
        for each in candidates:
            await ledger.conclude(each.id, each.to_json(), scope)
        ledger.close()

    asyncio.run(write())


def write_dataset(folder: Path, candidates: Iterable[Candidate]) -> None:
    """Finish a run."""
    files = export(folder, candidates, CARD)
    RunFolder(folder).record("synthesis", {"name": NAME, "arm": "gra", "states": {"accepted": 1}}, files)


def finished_run(folder: Path, candidates: Iterable[Candidate] = CANDIDATES) -> Path:
    write_recipe(folder)
    write_verdicts(folder, candidates)
    write_dataset(folder, candidates)
    return folder


@contextmanager
def read_desk(run: Path) -> Iterator[Desk]:
    """A desk whose candidates and format constraints have all been read, without its thread."""
    desk = Desk(run)
    try:
        desk.refresh()
        while desk._read_kinds():
            pass
        yield desk
    finally:
        desk.close()
