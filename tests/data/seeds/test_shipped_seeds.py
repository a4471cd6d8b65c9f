"""The hand-written data: quickstart seeds, the instructions we evaluate with, and the gap between them."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from itertools import combinations, product
from typing import Any

import pytest
from seed_rows import DOMAINS, REPORT, SEEDS, TASKS, by_id, check, near, obeys

from gra.checks.format import parse_checks

CATEGORIES = (
    "short_answer",
    "length",
    "format_list",
    "format_json",
    "case",
    "keyword",
    "start_end",
    "constraint_combo",
)


# Every seed whose instruction demands a form, and the form.
DEMANDS: dict[str, list[dict[str, Any]]] = {
    "coding-02": [check("one_of", options=["[1, 9]"])],
    "coding-05": [check("bullet_list", n=3), check("words_exactly", n=3)],
    "coding-08": [check("sentences_exactly", n=1)],
    "math-02": [check("one_of", options=["36"])],
    "math-03": [check("lines_exactly", n=3)],
    "math-06": [check("regex", pattern=r"\d+(, \d+){4}")],
    "math-09": [check("json_keys", keys=["fraction", "percent"])],
    "qa-02": [check("words_exactly", n=1)],
    "qa-03": [check("numbered_list", n=4)],
    "qa-05": [check("words_exactly", n=1)],
    "qa-08": [check("sentences_exactly", n=1)],
    "qa-10": [check("json_keys", keys=["capital", "currency"])],
    "reasoning-02": [check("one_of", options=["no"])],
    "reasoning-03": [check("one_of", options=["48"])],
    "reasoning-06": [check("numbered_list", n=4)],
    "reasoning-08": [check("sentences_exactly", n=1)],
    "reasoning-09": [check("bullet_list", n=2)],
    "role-play-03": [check("words_at_most", n=25)],
    "role-play-05": [check("lowercase")],
    "role-play-07": [check("bullet_list", n=3)],
    "role-play-08": [check("uppercase")],
    "role-play-10": [check("not_contains", text="leaves")],
    "language-03": [check("json_keys", keys=["person", "city", "day"])],
    "language-05": [check("words_exactly", n=1)],
    "language-08": [check("sentences_exactly", n=1)],
    "language-10": [check("lowercase")],
    "creation-01": [check("lines_exactly", n=3)],
    "creation-02": [check("words_at_most", n=5)],
    "creation-03": [check("numbered_list", n=4)],
    "creation-05": [check("lines_exactly", n=2)],
    "creation-07": [check("words_at_most", n=8)],
    "creation-08": [
        check("sentences_exactly", n=2),
        check("contains", text="shutters"),
        check("contains", text="oranges"),
    ],
    "creation-09": [check("sentences_exactly", n=3)],
    "creation-10": [check("starts_with", text="Dear friends,"), check("ends_with", text="See you there!")],
}


# --- the seeds -----------------------------------------------------------------------------------


@by_id(SEEDS)
def test_seed_has_the_documented_columns(row: dict[str, Any]) -> None:
    assert list(row) in (
        ["id", "domain", "instruction", "response"],
        ["id", "domain", "instruction", "response", "keywords", "summary"],
    )
    assert row["domain"] in DOMAINS
    assert re.fullmatch(re.escape(row["domain"]) + r"-\d\d", row["id"])
    if "keywords" in row:
        assert len(set(row["keywords"])) == 3
        assert 7 <= len(row["summary"].split()) <= 13
        assert row["summary"].endswith(".")


@by_id(SEEDS)
def test_seed_is_short_and_to_the_point(row: dict[str, Any]) -> None:
    prose = re.sub(r"```.*?```", "", row["response"], flags=re.DOTALL)
    terse = row["id"] in DEMANDS or row["domain"] in ("coding", "language")
    assert row["instruction"] == row["instruction"].strip()
    assert row["response"] == row["response"].strip()
    assert 4 <= len(row["instruction"].split()) <= 40
    assert (1 if terse else 10) <= len(row["response"].split()) <= 90
    assert not re.match(r"sure|certainly|of course|great question", row["response"], re.IGNORECASE)
    assert not re.search(r"\b(as an ai|language model|i cannot)\b", prose, re.IGNORECASE)


def test_seeds_cover_all_domains_and_leave_the_metadata_of_two_to_enrichment() -> None:
    rows = Counter(row["domain"] for row in SEEDS)
    assert set(rows) == set(DOMAINS)
    assert min(rows.values()) >= 9
    assert [row["id"] for row in SEEDS if "keywords" not in row] == ["qa-10", "creation-10"]
    assert len({row["id"] for row in SEEDS}) == len(SEEDS)


def test_almost_half_of_the_seeds_demand_a_form() -> None:
    demanding = [row for row in SEEDS if row["id"] in DEMANDS]
    assert len(demanding) == len(DEMANDS)
    assert 0.45 <= len(demanding) / len(SEEDS) < 0.5


@by_id([row for row in SEEDS if row["id"] in DEMANDS])
def test_seed_response_obeys_its_own_demand(row: dict[str, Any]) -> None:
    assert obeys(row["response"], DEMANDS[row["id"]])


@by_id([row for row in SEEDS if "```" in row["response"] + row["instruction"]])
def test_seed_code_compiles(row: dict[str, Any]) -> None:
    for side in ("instruction", "response"):
        assert row[side].count("```") % 2 == 0
        for language, code in re.findall(r"```(\w*)\n(.*?)```", row[side], re.DOTALL):
            assert len(code.splitlines()) <= 15
            if language == "python":
                compile(code, row["id"], "exec")
            elif language == "sql":
                database = sqlite3.connect(":memory:")
                database.execute("CREATE TABLE products (name TEXT, price REAL)")
                database.execute(code)
            else:
                assert language == "bash"


def test_seed_code_does_what_it_says() -> None:
    def run(seed_id: str) -> dict[str, Any]:
        response = next(row["response"] for row in SEEDS if row["id"] == seed_id)
        names: dict[str, Any] = {}
        exec(re.findall(r"```python\n(.*?)```", response, re.DOTALL)[0], names)
        return names

    assert run("coding-01")["initials"](" Ada  King Lovelace") == "A.K.L."
    assert run("coding-06")["counts"].most_common(2) == [("the", 2), ("cat", 1)]
    thermostat = run("coding-07")["Thermostat"]()
    thermostat.warmer()
    assert thermostat.target == 21
    thermostat.cooler()
    assert thermostat.target == 20
    assert run("coding-10")["drop_blank_lines"]("a\n\n  b\n \t\nc\n") == "a\n  b\nc\n"


# --- the evaluation instructions -----------------------------------------------------------------


@by_id(TASKS + REPORT)
def test_task_has_known_checks_with_the_right_arguments(row: dict[str, Any]) -> None:
    assert list(row) == ["id", "instruction", "checks", "category"]
    assert row["category"] in CATEGORIES
    assert 4 <= len(row["instruction"].split()) <= 30
    parsed = parse_checks(row["checks"], row["id"])
    assert all(c.arguments["ignore_case"] for c in parsed if c.kind in ("contains", "not_contains"))


def test_tasks_are_120_in_even_categories_with_unique_ids() -> None:
    assert [row["id"] for row in TASKS] == [f"ifv-{n:03d}" for n in range(1, 121)]
    assert set(Counter(row["category"] for row in TASKS).values()) == {15}
    assert [row["id"] for row in REPORT] == [f"ifr-{n:03d}" for n in range(1, 65)]
    assert Counter(row["category"] for row in REPORT) == dict.fromkeys(CATEGORIES, 8)


def test_yes_and_no_are_the_answer_equally_often() -> None:
    answers = Counter(row["checks"][0].get("options", [""])[0] for row in TASKS)
    assert answers["yes"] == answers["no"] > 0


@by_id(TASKS + REPORT)
def test_task_cannot_be_passed_without_following_it(row: dict[str, Any]) -> None:
    asked = row["instruction"]
    rambling = " ".join([asked] * 20)
    listing = "\n".join(f"{n}. {asked}" for n in range(1, 30))
    for cheat in ("", " \n", asked, asked.lower(), rambling, rambling.lower(), listing, f"{asked}\n{asked}"):
        assert not obeys(cheat, row["checks"]), cheat


@pytest.mark.parametrize("stock", ["Yes", "No.", "I do not know.", "1", "- One\n- Two", "This is a sentence."])
def test_one_stock_answer_passes_next_to_nothing(stock: str) -> None:
    for rows in (TASKS, REPORT):
        assert len([row["id"] for row in rows if obeys(stock, row["checks"])]) <= 2


# --- duplicates and the gap ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of Italy?", "What is the capital of Italy? Answer with one word."),
        ("Write a poem about a kettle.", "Write a poem about kettles."),
    ],
)
def test_near_notices_a_near_duplicate(one: str, other: str) -> None:
    assert near(one, other)


def test_no_near_duplicates_within_the_seeds_or_within_the_tasks() -> None:
    for rows in (SEEDS, TASKS + REPORT):
        pairs = combinations([row["instruction"] for row in rows], 2)
        assert [pair for pair in pairs if near(*pair)] == []


def test_seeds_and_tasks_share_nothing() -> None:
    asked = [row["instruction"] for row in TASKS + REPORT]
    assert [pair for pair in product([s["instruction"] for s in SEEDS], asked) if near(*pair)] == []
    responses = {row["response"].strip(" .").lower() for row in SEEDS}
    answers = {option.lower() for t in TASKS + REPORT for c in t["checks"] for option in c.get("options", [])}
    assert answers & responses <= {"no"}
