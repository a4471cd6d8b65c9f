"""The section of the report that looks at the rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from reported_run import candidate, write_arm
from scripted_run import WordEmbedder

from gra.core.run_folder import RunFolder
from gra.core.types import Candidate, State
from gra.reports import figures
from gra.reports.html import write_report
from gra.reports.rows import rows_section
from gra.runs.contents import read_contents
from gra.runs.inspection import inspect as inspection


def row(index: int, instruction: str) -> Candidate:
    return candidate(index, State.ACCEPTED, "x", instruction=instruction, response="Three plain words.")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An arm that has the questions of its twenty seeds, and none of their poems."""
    seeds = [row(i, f"Why is the number {i} odd?" if i % 2 else f"Write a poem about owl {i}.") for i in range(20)]
    folder = tmp_path / "run"
    write_arm(folder / "arms" / "vanilla", seeds, {"name": "v", "arm": "vanilla"})
    write_arm(folder / "arms" / "$made_$", [seeds[i] for i in range(1, 20, 2)], {"name": "m", "arm": "gra"})
    RunFolder(folder).record("experiment", {"command": "c", "arms": ["vanilla", "$made_$"]})
    return folder


def test_section_draws_what_is_thin_in_red(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_embedder", lambda *arguments: ("words", WordEmbedder().encode))
    section = rows_section(read_contents(run), tmp_path)
    assert section is not None
    assert {file.name for file in tmp_path.glob("*.png")} == {"row-lengths.png", "row-shares.png", "row-space.png"}
    (shares,) = section["shares"]
    assert "var(--red)" in shares.svg
    assert "▼ none" in shares.svg
    assert "var(--red)" in section["space"].svg  # the region of the poems has no row
    assert "var(--red)" not in section["lengths"].svg
    assert section["names"] == ["seeds", "vanilla", "$made_$"]


def test_page_says_what_is_thin_and_what_is_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    page = write_report(run, title="t", command="c").read_text()
    assert '<a href="#rows">Rows</a>' in page
    assert "kind of request “write” (0% against 50%)" in page
    assert "No arm deduplicates by an embedder" in page


def test_run_without_rows_has_no_section(tmp_path: Path) -> None:
    write_arm(tmp_path, [candidate(0, State.FAILED, "x")], {"name": "n", "arm": "gra"})
    assert rows_section(read_contents(tmp_path), tmp_path) is None
