"""The style sheet of CONTRIBUTING.md holds in the package and its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from language import files, problems
from paths import ROOT

# docs/benchmarks.md is a log of measurements; its words are checked, its sentences are not.
PLACES = sorted(str(path) for path in (ROOT / "gra").iterdir() if path.is_dir() or path.suffix == ".py")
DOCS = [*map(str, (ROOT / "docs").glob("*.md")), str(ROOT / "README.md"), str(ROOT / "CONTRIBUTING.md")]


@pytest.mark.parametrize("place", [*PLACES, *DOCS], ids=lambda place: str(Path(place).relative_to(ROOT)))
def test_text_follows_the_style_sheet(place: str) -> None:
    found = [problem for file in files([place]) for problem in problems(file)]
    if Path(place).name == "benchmarks.md":
        found = [problem for problem in found if " words: " not in problem]
    assert found == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Return the candidate.", 0),
        ("Tell the story.", 2),
        ("Optimise it.", 1),
        ("Return " + "a value and " * 10 + "so on.", 1),
        ("Return `told` as it is in the file.", 0),
    ],
)
def test_checker_finds_words_and_long_sentences(tmp_path: Path, text: str, wanted: int) -> None:
    file = tmp_path / "module.py"
    file.write_text(f'"""{text}"""\n')
    assert len(list(problems(file))) == wanted


def test_checker_reads_names_comments_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('workbench = 1  # a story\nraise ValueError("nobody was told this")\n')
    assert len(list(problems(file))) == 4


def test_checker_finds_functions_without_a_verb(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('def one():\n    """The sum."""\n\n\ndef two():\n    """Return the sum."""\n')
    assert [problem.partition(": ")[2] for problem in problems(file)] == [
        "the docstring begins with `The`: begin with a verb"
    ]
