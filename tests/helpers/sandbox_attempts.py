"""Programs for the sandbox tests, kept as text so that they can be read as programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from gra.sandbox.job import SandboxJob

FOLDER = Path(__file__).parent / "sandbox_programs"
TESTS = "assert f(1) == 2\n"


class Attempt(NamedTuple):
    """A program and the verdict it must get."""

    name: str
    verdict: str
    job: SandboxJob


def attempts(name: str) -> dict[str, Attempt]:
    """The programs of one file, by their names."""
    sections = re.split(
        r"^=== (.+) -> (\w+)\n", (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    found = {}
    for title, verdict, body in zip(sections[1::3], sections[2::3], sections[3::3], strict=True):
        code, _, tests = body.partition("\n---\n")
        found[title] = Attempt(title, verdict, SandboxJob(code, tests or TESTS))
    assert found
    return found
