"""Commands end with a sentence and a code where the user can act, and with a traceback for bugs only."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gra.cli.exit import entry
from gra.core.errors import BudgetExhausted, ModelUnavailable


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end, entry():
        raise error
    return end.value.code, capsys.readouterr().err


def full(code: int, name: str | None = None) -> OSError:
    return OSError(code, os.strerror(code), name) if name else OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ModelUnavailable("gone"), 4, "error: gone\n"),
        (
            ExceptionGroup("all", [ValueError("x"), ExceptionGroup("in", [BudgetExhausted("spent")])]),
            3,
            "error: spent\n",
        ),
        (BaseExceptionGroup("all", [KeyboardInterrupt()]), 130, "interrupted; run the same command again"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (full(errno.ENOSPC), 2, "error: No space left on device; free some space and run the same command again"),
        (full(errno.EROFS, "a/b"), 2, "error: a/b: Read-only file system; choose a folder that can be written to"),
        (ExceptionGroup("all", [full(errno.EACCES, "a/b")]), 2, "error: a/b: Permission denied; check its rights"),
    ],
)
def test_failure_that_the_user_can_act_on_is_one_sentence(
    error, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ended(error, capsys)
    assert found[0] == code
    assert found[1].startswith(sentence)


@pytest.mark.parametrize(
    "error", [ValueError("bug"), full(errno.EPERM), full(errno.ENOENT, "x"), ExceptionGroup("a", [KeyError()])]
)
def test_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), entry():
        raise error


IMPATIENT = """
import asyncio, os, signal
from gra.cli.exit import entry

def interrupt():
    os.kill(os.getpid(), signal.%s)

async def work():
    try:
        await asyncio.sleep(60)
    finally:
        interrupt()  # again, while the first is obeyed

async def main():
    asyncio.get_running_loop().call_later(0.1, interrupt)
    async with asyncio.TaskGroup() as group:
        group.create_task(work())

with entry("stopped"):
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_second_interrupt_ends_cleanly(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPATIENT % how], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_sigterm_stops_a_run_where_ctrl_c_is_ignored() -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = subprocess.run(
        [sys.executable, "-c", deaf + IMPATIENT % "SIGTERM"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    code = "from gra.cli.exit import entry\nwith entry(): print('caf\u00e9 \u2713')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "caf\\xe9 \\u2713\n"


def test_unwritable_run_folder_is_one_sentence(tmp_path: Path) -> None:
    """As root too: a folder stands where the lock should be."""
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(json.dumps({"instruction": "Name a river.", "response": "The Nile.", "domain": "qa"}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: demo\narm: vanilla\nseeds: {{source: {seeds}}}\n")
    (tmp_path / "runs" / "demo" / ".lock").mkdir(parents=True)
    command = [sys.executable, "-m", "gra.cli.main", "synthesize", str(recipe), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert ".lock: Is a directory; choose another place" in done.stderr


def test_bare_command_shows_its_help() -> None:
    done = subprocess.run([sys.executable, "-m", "gra.cli.main"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert "error" not in done.stderr
