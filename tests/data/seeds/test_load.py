"""Seed rows of every form: bad rows are named with file and line, good rows stay as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.config.synthesis import SeedsConfig
from gra.core.errors import DataError
from gra.data.seeds.load import Seeds, load_seeds

DOMAINS = ["qa", "math"]
GOOD = {"domain": "qa", "instruction": "Name a river.", "response": "The Nile."}


LINE = json.dumps(GOOD).encode() + b"\n"


def seed_file(folder: Path, *rows: Any) -> Path:
    path = folder / "seeds.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, *, seed: int = 0, **settings: Any) -> Seeds:
    return load_seeds(path, DOMAINS, SeedsConfig(source=str(path), **settings), seed=seed)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"domain": "qa", "instruction": "cut of', "not valid JSON"),
        ("just text", "not valid JSON"),
        ('{"domain": ' + "9" * 5000 + "}", "not valid JSON (a number with thousands of digits)"),
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
        ({**GOOD, "id": 7.5}, "`id` must be text or a whole number"),
        ({**GOOD, "id": True}, "`id` must be text or a whole number"),
        ({**GOOD, "id": ["a"]}, "`id` must be text or a whole number"),
        ({**GOOD, "id": "r1-000003"}, "the id `r1-000003` is what candidates of a run are called"),
        ({**GOOD, "input": ["about it"]}, "`input` is not text"),
        ({**GOOD, "context": 3}, "`context` is not text"),
        ({**GOOD, "system": {}}, "`system` is not text"),
        ({**GOOD, "history": [["a", "b"]]}, "`history` would be lost"),
        ({**GOOD, "instruction": "a\0b"}, "the text has a NUL character"),
        ({**GOOD, "response": "a\0b"}, "the text has a NUL character"),
        ({**GOOD, "id": "first"}, "the id `first` is already used at"),
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
    assert "\n  … and 3 more\n" in text
    assert "`seeds.max_bad` is 0.01" in text


def test_a_good_file(tmp_path: Path) -> None:
    path = seed_file(
        tmp_path, {**GOOD, "id": "a", "keywords": ["x", "y", "z"], "summary": "Name it."}, "",
        {**GOOD, "domain": "math", "instruction": " Add 2\u2028and 2. "},
    )  # fmt: skip
    first, second = load_seeds(path, DOMAINS).rows
    assert (first.id, first.keywords, first.enriched) == ("a", ("x", "y", "z"), True)
    assert (second.id, second.instruction, second.enriched) == ("seed-000003", "Add 2\u2028and 2.", False)
    assert read(path).set_aside == []


def test_a_file_saved_by_an_office_program(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert [seed.response for seed in load_seeds(path, DOMAINS).rows] == ["The Nile."] * 2


@pytest.mark.parametrize(
    ("data", "problem"), [(b"", "no rows"), (b"\n\n", "no rows"), (b"\xff\xfe{", "not UTF-8 text")]
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
def test_written_rows_are_read_as_they_are(tmp_path_factory, made: list[dict[str, Any]]) -> None:
    path = seed_file(tmp_path_factory.mktemp("seeds"), *made)
    found = load_seeds(path, DOMAINS).rows
    assert [(s.domain, s.instruction, s.response) for s in found] == [
        (row["domain"], row["instruction"], row["response"]) for row in made
    ]
    assert [list(s.keywords) for s in found] == [row.get("keywords", []) for row in made]


# --- rows set aside -------------------------------------------------------------------------------------------------


def test_a_few_bad_rows_are_set_aside_and_reported(tmp_path: Path) -> None:
    path = seed_file(tmp_path, *[GOOD] * 60, "broken", *[GOOD] * 60)
    found = read(path)
    assert len(found.rows) == 120
    assert found.set_aside == [f"{path}:61: not valid JSON (Expecting value, column 1)"]
    assert found.note() == f"! 1 of 121 seed rows cannot be used:\n  {found.set_aside[0]}"
    assert found.rows[60].id == "seed-000062"  # the number of its line
    assert read(seed_file(tmp_path, GOOD)).note() == ""
    with pytest.raises(DataError, match="1 of 121"):
        read(seed_file(tmp_path, *[GOOD] * 60, "broken", *[GOOD] * 60), max_bad=0.005)


def test_however_much_is_put_up_with_nothing_is_not_enough(tmp_path: Path) -> None:
    path = seed_file(tmp_path, GOOD, "broken", "broken")
    assert len(read(path, max_bad=0.7).rows) == 1
    with pytest.raises(DataError, match="2 of 2 seed rows cannot be used"):
        read(seed_file(tmp_path, "broken", "broken"), max_bad=1.0)


# --- forms ----------------------------------------------------------------------------------------------------------

ASKED, SAID = "Name a river.", "The Nile."
HUMAN, GPT = {"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}
USER, ASSISTANT = {"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("form", "row", "instruction"),
    [
        ("gra", {"instruction": ASKED, "response": SAID}, ASKED),
        ("alpaca", {"instruction": ASKED, "output": SAID}, ASKED),
        ("alpaca", {"instruction": ASKED, "input": "", "output": SAID, "text": "all of it"}, ASKED),
        ("alpaca", {"instruction": ASKED, "input": "In Africa. ", "output": SAID}, f"{ASKED}\n\nIn Africa."),
        (
            "alpaca",
            {"instruction": ASKED, "output": SAID, "system": "Be brief.", "history": []},
            f"Be brief.\n\n{ASKED}",
        ),
        ("gra", {"instruction": ASKED, "input": "In Africa.", "response": SAID}, f"{ASKED}\n\nIn Africa."),
        ("gra", {"instruction": ASKED, "context": "In Africa.", "response": SAID}, f"{ASKED}\n\nIn Africa."),
        ("self_instruct", {"instruction": ASKED, "instances": [{"input": "", "output": SAID}]}, ASKED),
        (
            "self_instruct",
            {"id": None, "instruction": ASKED, "instances": [{"input": "In Africa.", "output": SAID}]},
            f"{ASKED}\n\nIn Africa.",
        ),
        ("sharegpt", {"id": "x_0", "conversations": [HUMAN, GPT]}, ASKED),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT]},
            f"Be brief.\n\n{ASKED}",
        ),
        ("messages", {"messages": [USER, ASSISTANT]}, ASKED),
        ("messages", {"messages": [SYSTEM, USER, ASSISTANT]}, f"Be brief.\n\n{ASKED}"),
        ("prompt_completion", {"prompt": ASKED, "completion": SAID}, ASKED),
        ("prompt_completion", {"prompt": [USER], "completion": [ASSISTANT]}, ASKED),
    ],
)
def test_every_form_is_recognised_and_can_be_asked_for(tmp_path: Path, form: str, row: Any, instruction: str) -> None:
    path = seed_file(tmp_path, row, {**row, "domain": "math"})
    for asked in ("auto", form):
        first, second = read(path, format=asked, domain="qa").rows
        assert (first.instruction, first.response, first.domain) == (instruction, SAID, "qa")
        assert second.domain == "math"
    assert [seed.domain for seed in read(path).rows] == ["", "math"]  # a model names the first


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": ASKED, "output": ""}, "`output` is missing, empty or not text"),
        ({"instruction": ASKED, "input": 3, "output": SAID}, "`input` is not text"),
        ({"instruction": ASKED, "instances": []}, "`instances` is missing, empty or not a list"),
        ({"instruction": ASKED, "instances": {"input": "", "output": SAID}}, "`instances` is missing, empty or not a"),
        ({"instruction": ASKED, "instances": [SAID]}, "an instance in `instances` is not an `input` and an `output`"),
        ({"instruction": ASKED, "instances": [{"input": "a"}]}, "`output` is missing, empty or not text"),
        ({"instruction": ASKED, "instances": [{"output": SAID}], "input": "a"}, "`input` would be lost"),
        ({"conversations": [HUMAN, GPT, HUMAN, GPT]}, "has 4 turns; `seeds.turns: first` takes"),
        ({"conversations": [GPT, HUMAN]}, "does not begin with a question and its answer"),
        ({"conversations": [HUMAN]}, "does not begin with a question and its answer"),
        ({"conversations": []}, "is missing, empty or not a list"),
        ({"conversations": [{**HUMAN, "from": "bing"}, GPT]}, "`bing` speaks in `conversations`"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]},
            "not a `role` and a `content`, both",
        ),
        ({"messages": [{**USER, "content": " "}, ASSISTANT]}, "the question or the answer in `messages` is empty"),
        ({"messages": [SYSTEM]}, "does not begin with a question"),
        ({"prompt": ASKED, "completion": [ASSISTANT]}, "`completion` is missing, empty or not text"),
        ({"prompt": ASKED, "chosen": SAID}, "rows have the keys prompt, chosen, which no known form has"),
        (
            {"messages": [USER, ASSISTANT], "prompt": ASKED, "completion": SAID},
            "messages or prompt_completion; say which",
        ),
    ],
)
def test_what_does_not_fit_its_form_is_named_and_never_guessed(tmp_path: Path, row: Any, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(seed_file(tmp_path, row), domain="qa")
    assert problem in str(caught.value)


def test_of_a_longer_conversation_the_first_exchange_if_asked_for(tmp_path: Path) -> None:
    again = [{"from": "human", "value": "Another."}, {"from": "gpt", "value": "The Rhine."}]
    path = seed_file(tmp_path, {"conversations": [HUMAN, GPT, *again]})
    (found,) = read(path, domain="qa", turns="first").rows
    assert (found.instruction, found.response) == (ASKED, SAID)


@pytest.mark.parametrize(
    ("given", "identity"),
    [(7, "7"), (0, "0"), (-3, "-3"), (7.0, "7"), ("07", "07"), (None, "seed-000001"), ("", "seed-000001"),
     (10**30, str(10**30))],
)  # fmt: skip
def test_ids_are_text_or_whole_numbers(tmp_path: Path, given: Any, identity: str) -> None:
    (seed,) = read(seed_file(tmp_path, {**GOOD, "id": given})).rows
    assert seed.id == identity


def test_ids_of_a_table_with_gaps_are_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "seeds.parquet"
    texts = pa.array(["a", "b", "c"])
    ids = pa.array([1.0, float("nan"), None], pa.float64())
    pq.write_table(pa.table({"id": ids, "instruction": texts, "response": texts}), path)
    assert [seed.id for seed in read(path).rows] == ["1", "seed-000002", "seed-000003"]


def test_number_and_text_of_one_id_are_a_duplicate(tmp_path: Path) -> None:
    path = seed_file(tmp_path, {**GOOD, "id": 7}, {**GOOD, "id": "7"}, {**GOOD, "id": 7.0})
    found = read(path, max_bad=0.9)
    assert [seed.id for seed in found.rows] == ["7"]
    assert found.set_aside == [f"{path}:{line}: the id `7` is already used at {path}:1" for line in (2, 3)]


def test_every_instance_of_a_task_is_a_seed(tmp_path: Path) -> None:
    instances = [{"input": place, "output": river} for place, river in (("Egypt", "Nile"), ("Peru", "Amazon"))]
    task = {"id": "seed_task_0", "name": "rivers", "instruction": ASKED, "instances": instances}
    path = seed_file(tmp_path, task, {**task, "id": 3, "instances": instances[:1], "is_classification": False})
    assert [(seed.id, seed.instruction, seed.response) for seed in read(path).rows] == [
        ("seed_task_0", f"{ASKED}\n\nEgypt", "Nile"),
        ("seed_task_0-2", f"{ASKED}\n\nPeru", "Amazon"),
        ("3", f"{ASKED}\n\nEgypt", "Nile"),
    ]


def test_tests_of_a_row_are_compiled_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (seed,) = read(seed_file(tmp_path, {**GOOD, "tests": 'assert "\\d" is 1'})).rows
    assert seed.tests
    assert not recwarn.list


# --- limit ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(1, 30), st.integers(0, 3))
def test_a_limit_draws_evenly_over_the_domains(tmp_path_factory, domains: list[str], limit: int, seed: int) -> None:
    path = seed_file(tmp_path_factory.mktemp("even"), *[{**GOOD, "domain": domain} for domain in domains])
    source = SeedsConfig(source=str(path), limit=limit)
    drawn = load_seeds(path, "abc", source, seed=seed).rows
    everything = load_seeds(path, "abc").rows
    assert len(drawn) == min(limit, len(domains))
    assert [s for s in everything if s in drawn] == drawn  # in the order of the file
    assert drawn == load_seeds(path, "abc", source, seed=seed).rows
    has, takes = Counter(domains), Counter(s.domain for s in drawn)
    most = max(takes.values())
    assert all(takes[domain] >= min(has[domain], most - 1) for domain in has)


def test_a_limit_is_a_draw_and_not_the_beginning(tmp_path: Path) -> None:
    path = seed_file(tmp_path, *[GOOD] * 200)
    draws = [[s.id for s in read(path, limit=5, seed=seed).rows] for seed in range(4)]
    assert len({tuple(ids) for ids in draws}) == 4
    assert "seed-000001" not in draws[0] or "seed-000002" not in draws[0]


# --- public data ----------------------------------------------------------------------------------------------------


def test_public_seed_tasks_are_read_as_they_are(shared_data: Path) -> None:
    path = shared_data / "seeds" / "self_instruct_seed_tasks.jsonl"
    found = read(path, domain="qa")
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [seed.id for seed in found.rows] == [task["id"] for task in tasks]
    assert [seed.response for seed in found.rows] == [task["instances"][0]["output"].strip() for task in tasks]
    assert len(found.rows) == 175
    assert not found.set_aside


def test_public_seed_tasks_in_every_form(shared_data: Path, tmp_path: Path) -> None:
    """A real file, turned line by line into each form, gives the same seeds."""
    tasks = (shared_data / "seeds" / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").split("\n")
    alpaca, messages, sharegpt = [], [], []
    for task in map(json.loads, filter(None, tasks)):
        asked, first = task["instruction"].strip(), task["instances"][0]
        alpaca.append({"instruction": asked, "input": first["input"], "output": first["output"]})
        whole = "\n\n".join(filter(None, (asked, first["input"].strip())))
        said = [("user", "human", whole), ("assistant", "gpt", first["output"])]
        messages.append({"messages": [{"role": role, "content": text} for role, _, text in said]})
        sharegpt.append({"conversations": [{"from": who, "value": text} for _, who, text in said]})
    found = [read(seed_file(tmp_path, *rows), domain="qa").rows for rows in (alpaca, messages, sharegpt)]
    assert len(found[0]) == 175
    assert found[0] == found[1] == found[2]
    pq.write_table(pa.Table.from_pylist(messages), tmp_path / "seeds.parquet")
    assert read(tmp_path / "seeds.parquet", domain="qa").rows == found[0]


@pytest.mark.parametrize("row", [without("domain"), {**GOOD, "domain": None}, {**GOOD, "domain": ""}])
def test_a_row_may_leave_its_domain_to_the_committee(tmp_path: Path, row: dict[str, Any]) -> None:
    (seed,) = read(seed_file(tmp_path, row)).rows
    assert (seed.domain, seed.instruction) == ("", "Name a river.")
