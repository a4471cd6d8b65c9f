"""The threat table of docs/security.md names tests that exist and gaps that the sandbox reports."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from gra.sandbox.job import Isolation

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
# The part before a name without a folder, by the ending of the name.
FOLDERS = {".py": "tests/sandbox", ".txt": "tests/helpers/sandbox_programs"}


def named_files() -> list[str]:
    """Return the test files that the page names."""
    return sorted(set(re.findall(r"`((?:tests/[\w/]+/)?\w+\.(?:py|txt))`", PAGE)))


@pytest.mark.parametrize("name", named_files())
def test_page_names_existing_tests(name: str) -> None:
    path = ROOT / name if "/" in name else ROOT / FOLDERS[name[name.rindex(".") :]] / name
    assert path.exists()


def test_page_explains_every_gap() -> None:
    bare = Isolation((), 0, False, False)
    others = [
        Isolation((), 0, False, False, own_user=True),
        Isolation((), 4, False, False),
        Isolation(("network",), 4, False, False),
    ]
    gaps = {gap for isolation in (bare, *others) for gap in isolation.gaps()}
    assert len(gaps) == 11
    assert [gap for gap in sorted(gaps) if gap not in PAGE] == []
