"""Seed files: every malformed row is named with file and line, and good rows come through untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.errors import DataError
from gra.data.seeds import load_seeds

DOMAINS = ["qa", "math"]
GOOD = {"domain": "qa", "instruction": "Name a river.", "response": "The Nile."}


def seed_file(folder: Path, *rows: Any) -> Path:
    path = folder / "seeds.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"domain": "qa", "instruction": "cut of', "not valid JSON"),
        ("just text", "not valid JSON"),
        ("[1, 2]", "a row must be a JSON object"),
        ('"text"', "a row must be a JSON object"),
        (without("instruction"), "`instruction` is missing, empty or not text"),
        (without("response"), "`response` is missing, empty or not text"),
        ({**GOOD, "response": "  "}, "`response` is missing, empty or not text"),
        ({**GOOD, "instruction": ["a"]}, "`instruction` is missing, empty or not text"),
        ({**GOOD, "domain": "maths"}, "`domain` is 'maths'; the recipe's domains are qa, math"),
        ({**GOOD, "domain": ["qa"]}, "`domain` is ['qa']"),
        ({**GOOD, "keywords": ["a", "b"]}, "`keywords` must be a list of three texts"),
        ({**GOOD, "keywords": "a, b, c"}, "`keywords` must be a list of three texts"),
        ({**GOOD, "keywords": ["a", "b", 3]}, "`keywords` must be a list of three texts"),
        ({**GOOD, "keywords": ["a", "", "c"]}, "`keywords` must be a list of three texts"),
        ({**GOOD, "summary": {"a": 1}}, "`summary` must be text"),
        ({**GOOD, "id": 7}, "`id` must be text"),
        ({**GOOD, "id": "first"}, "the id `first` is already used on line 1"),
        ('{"domain": "qa", "instruction": "half \\ud83d", "response": "x"}', "not text that can be asked about"),
        ('{"domain": "qa", "instruction": "a", "response": "x", "score": NaN}', "not text that can be asked about"),
    ],
)
def test_each_kind_of_malformed_row_is_named_with_file_and_line(tmp_path: Path, row: Any, problem: str) -> None:
    path = seed_file(tmp_path, {**GOOD, "id": "first"}, "", row, GOOD)
    with pytest.raises(DataError) as caught:
        load_seeds(path, DOMAINS)
    assert f"{path}:3: {problem}" in str(caught.value)
    assert str(caught.value).startswith("1 of 3 seed rows cannot be used")
    assert caught.value.exit_code == 2


def test_all_problems_at_once_and_only_the_first_ten_in_full(tmp_path: Path) -> None:
    path = seed_file(tmp_path, *["broken"] * 13, GOOD)
    with pytest.raises(DataError) as caught:
        load_seeds(path, DOMAINS)
    text = str(caught.value)
    assert text.startswith("13 of 14 seed rows cannot be used")
    assert [f"{path}:{n}:" in text for n in (1, 10, 11)] == [True, True, False]
    assert text.endswith("… and 3 more")


def test_a_good_file(tmp_path: Path) -> None:
    path = seed_file(
        tmp_path, {**GOOD, "id": "a", "keywords": ["x", "y", "z"], "summary": "Name it."}, "",
        {**GOOD, "domain": "math", "instruction": " Add 2\u2028and 2. "},
    )  # fmt: skip
    first, second = load_seeds(path, DOMAINS)
    assert (first.id, first.keywords, first.enriched) == ("a", ("x", "y", "z"), True)
    assert (second.id, second.instruction, second.enriched) == ("seed-000003", "Add 2\u2028and 2.", False)
    assert load_seeds(path, DOMAINS, limit=1) == [first]


def test_a_file_saved_by_an_office_program(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert [seed.response for seed in load_seeds(path, DOMAINS)] == ["The Nile."] * 2


@pytest.mark.parametrize(
    ("data", "problem"), [(b"", "no rows"), (b"\n\n", "no rows"), (b"\xff\xfe{", "cannot be read")]
)
def test_files_without_rows(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=problem):
        load_seeds(path, DOMAINS)
    with pytest.raises(DataError, match="cannot be read"):
        load_seeds(tmp_path / "missing.jsonl", DOMAINS)


text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1)
rows = st.fixed_dictionaries(
    {"domain": st.sampled_from(DOMAINS), "instruction": text, "response": text},
    optional={"keywords": st.lists(text, min_size=3, max_size=3), "summary": text},
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_whatever_is_written_is_read(tmp_path_factory, made: list[dict[str, Any]]) -> None:
    path = seed_file(tmp_path_factory.mktemp("seeds"), *made)
    read = load_seeds(path, DOMAINS)
    assert [(s.domain, s.instruction, s.response) for s in read] == [
        (row["domain"], row["instruction"], row["response"]) for row in made
    ]
    assert [list(s.keywords) for s in read] == [row.get("keywords", []) for row in made]


def test_public_seed_tasks_become_seeds(shared_data: Path, tmp_path: Path) -> None:
    """A real file in another form, turned into ours line by line."""
    tasks = (shared_data / "seeds" / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").split("\n")
    made = []
    for task in map(json.loads, filter(None, tasks)):
        first = task["instances"][0]
        made.append({"id": task["id"], "domain": "qa", "instruction": f"{task['instruction']}\n{first['input']}",
                     "response": first["output"]})  # fmt: skip
    assert len(load_seeds(seed_file(tmp_path, *made), DOMAINS)) == len(made) == 175


@pytest.mark.parametrize("row", [without("domain"), {**GOOD, "domain": None}, {**GOOD, "domain": ""}])
def test_a_row_may_leave_its_domain_to_the_committee(tmp_path: Path, row: dict[str, Any]) -> None:
    (seed,) = load_seeds(seed_file(tmp_path, row), DOMAINS)
    assert (seed.domain, seed.instruction) == ("", "Name a river.")
