"""The 252 seeds of the study: columns, the forms that they demand, and their distance from each other."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, product
from typing import Any

import pytest
from seed_rows import DOMAINS, REPORT, SEEDS, TASKS, by_id, check, near, obeys, read

STUDY = read("recipes/seeds/study.jsonl")
KNOWN = {row["id"] for row in SEEDS}
ADDED = [row for row in STUDY if row["id"] not in KNOWN]  # beside those of the quickstart


def one_of(*options: str) -> dict[str, Any]:
    return check("one_of", options=list(options))


# Added seeds whose instructions demand a form that a program sees, and the form.
DEMANDS: dict[str, list[dict[str, Any]]] = {
    "coding-12": [one_of("c-b-a")],
    "coding-16": [check("lines_exactly", n=1), check("not_contains", text="`")],
    "coding-17": [one_of("git switch -c fix-login", "git checkout -b fix-login")],
    "coding-19": [check("json_keys", keys=["name", "price", "in_stock"])],
    "coding-24": [
        check("starts_with", text="<table>"),
        check("ends_with", text="</table>"),
        check("not_contains", text="`"),
    ],
    "coding-26": [
        check("bullet_list", n=4),
        check("regex", pattern=r"- 200:[^\n]*\n- 301:[^\n]*\n- 404:[^\n]*\n- 500:[^\n]*"),
    ],
    "coding-28": [check("regex", pattern=r"[a-z]+(_[a-z]+)*")],
    "coding-29": [check("not_contains", text="import ")],
    "coding-30": [check("not_contains", text="function", ignore_case=True)],
    "coding-35": [check("json_keys", keys=["a", "b", "c"])],
    "coding-36": [check("regex", pattern=r"[^\n]{1,50}")],
    "math-12": [one_of("0.875")],
    "math-14": [check("json_keys", keys=["minutes", "seconds"])],
    "math-16": [check("regex", pattern=r"\d+(, \d+){8}")],
    "math-19": [check("sentences_exactly", n=1)],
    "math-21": [check("regex", pattern=r"Answer: \d+\.\d")],
    "math-27": [one_of("5.2 × 10^-4")],
    "math-28": [check("bullet_list", n=2)],
    "math-31": [check("regex", pattern="[01]+")],
    "math-33": [check("sentences_exactly", n=1)],
    "math-34": [check("sentences_exactly", n=3)],
    "math-30": [check("ends_with", text="Have a good trip!")],
    "math-35": [one_of("0.6, 5/8, 65%, 2/3")],
    "math-36": [check("numbered_list", n=6), check("lines_exactly", n=6)],
    "reasoning-11": [one_of("Cy, Bo, Ana, Di")],
    "reasoning-13": [check("words_exactly", n=1), check("lowercase")],
    "reasoning-16": [check("numbered_list", n=3)],
    "reasoning-18": [check("json_keys", keys=["a", "b", "c"])],
    "reasoning-21": [check("words_at_most", n=40)],
    "reasoning-22": [check("words_exactly", n=1)],
    "reasoning-23": [check("sentences_exactly", n=1), check("starts_with", text="It assumes")],
    "reasoning-26": [check("regex", pattern="[ABC] and [ABC]")],
    "reasoning-27": [check("json_keys", keys=["top", "middle", "bottom"])],
    "reasoning-30": [check("sentences_exactly", n=1), check("words_at_most", n=10)],
    "reasoning-31": [check("paragraphs_exactly", n=2)],
    "qa-12": [check("words_exactly", n=1)],
    "qa-13": [check("bullet_list", n=3)],
    "qa-16": [check("words_at_most", n=40)],
    "qa-17": [check("json_keys", keys=["needs", "makes"]), check("lowercase")],
    "qa-19": [check("numbered_list", n=7), check("lines_exactly", n=7)],
    "qa-21": [check("not_contains", text="money", ignore_case=True)],
    "qa-26": [check("regex", pattern=r"\d+")],
    "qa-27": [check("sentences_exactly", n=1)],
    "qa-28": [check("lowercase"), check("words_exactly", n=2)],
    "qa-30": [check("regex", pattern=r"\d+")],
    "qa-35": [check("paragraphs_exactly", n=2)],
    "qa-36": [check("titled")],
    "role-play-12": [check("sentences_exactly", n=2)],
    "role-play-14": [check("numbered_list", n=3), check("lines_exactly", n=3)],
    "role-play-15": [check("ends_with", text="Good night, little one.")],
    "role-play-16": [check("words_at_most", n=29)],
    "role-play-21": [check("bullet_list", n=3), check("lines_exactly", n=3)],
    "role-play-24": [check("numbered_list", n=4), check("lines_exactly", n=5)],
    "role-play-25": [check("contains", text="saddle"), check("not_contains", text="fear", ignore_case=True)],
    "role-play-26": [check("json_keys", keys=["greeting", "forecast"], exact=True)],
    "role-play-28": [check("words_at_most", n=12)],
    "role-play-31": [check("paragraphs_exactly", n=2)],
    "role-play-34": [check("titled")],
    "language-14": [check("json_keys", keys=["child", "mouse", "knife", "sheep"], exact=True)],
    "language-15": [check("one_of", options=["receive"])],
    "language-16": [check("sentences_exactly", n=1)],
    "language-17": [check("numbered_list", n=3), check("regex", pattern=r"1\. Informal\n2\. Formal\n3\. Informal")],
    "language-20": [check("bullet_list", n=3), check("lines_exactly", n=3)],
    "language-22": [check("not_contains", text="very", ignore_case=True)],
    "language-23": [check("json_keys", keys=["subject", "verb", "object"], exact=True)],
    "language-25": [check("one_of", options=["ladder, lake, lamp, lantern"])],
    "language-27": [check("words_at_most", n=20)],
    "language-30": [check("sentences_at_most", n=2)],
    "language-32": [check("sentences_exactly", n=1)],
    "language-35": [check("sentences_exactly", n=2)],
    "creation-11": [check("lines_exactly", n=5)],
    "creation-14": [check("words_exactly", n=6)],
    "creation-15": [
        check("lines_exactly", n=4),
        check(
            "regex", pattern=r"(Spoon|Fork): [^\n]+\n(Spoon|Fork): [^\n]+\n(Spoon|Fork): [^\n]+\n(Spoon|Fork): [^\n]+"
        ),
    ],
    "creation-16": [check("words_at_most", n=40)],
    "creation-17": [check("regex", pattern=r"R[^\n]+\nA[^\n]+\nI[^\n]+\nN[^\n]+")],
    "creation-18": [check("json_keys", keys=["name", "climate", "animal"], exact=True)],
    "creation-20": [check("lines_exactly", n=4)],
    "creation-21": [check("postscript", marker="P.S.")],
    "creation-22": [
        check("bullet_list", n=3),
        check("regex", pattern=r"- \S+( \S+){0,4}\n- \S+( \S+){0,4}\n- \S+( \S+){0,4}"),
    ],
    "creation-26": [check("sentences_exactly", n=1), check("regex", pattern=r"[^eE]+")],
    "creation-27": [check("paragraphs_exactly", n=2)],
    "creation-28": [check("titled"), check("lines_exactly", n=5)],
}


@by_id(ADDED)
def test_added_seed_has_all_columns(row: dict[str, Any]) -> None:
    assert list(row) == ["id", "domain", "instruction", "response", "keywords", "summary"]
    assert re.fullmatch(re.escape(row["domain"]) + r"-\d\d", row["id"])
    assert len(set(row["keywords"])) == 3
    assert 7 <= len(row["summary"].split()) <= 13
    assert row["summary"].endswith(".")
    assert row["instruction"] == row["instruction"].strip()
    assert row["response"] == row["response"].strip()
    assert 4 <= len(row["instruction"].split()) <= 60
    assert len(row["response"].split()) <= 90
    assert (row["instruction"] + row["response"]).count("```") % 2 == 0


@pytest.mark.parametrize("name", sorted(DEMANDS))
def test_added_seed_obeys_its_own_demand(name: str) -> None:
    (response,) = [row["response"] for row in ADDED if row["id"] == name]
    assert obeys(response, DEMANDS[name])


@by_id([row for row in ADDED if "```python" in row["response"]])
def test_python_of_an_added_seed_compiles(row: dict[str, Any]) -> None:
    for code in re.findall(r"```python\n(.*?)```", row["response"], re.DOTALL):
        compile(code, row["id"], "exec")


def test_study_has_the_seeds_of_the_quickstart_and_36_of_each_domain() -> None:
    assert [row for row in STUDY if row["id"] in KNOWN] == SEEDS
    assert Counter(row["domain"] for row in STUDY) == dict.fromkeys(DOMAINS, 36)
    assert len({row["id"] for row in STUDY}) == len(STUDY)
    assert 0.4 <= len(DEMANDS) / len(ADDED) <= 0.5


def test_added_seeds_are_far_from_all_others_and_from_the_tasks() -> None:
    added, asked = [row["instruction"] for row in ADDED], [row["instruction"] for row in TASKS + REPORT]
    assert [pair for pair in combinations(added, 2) if near(*pair)] == []
    assert [pair for pair in product(added, asked + [row["instruction"] for row in SEEDS]) if near(*pair)] == []
    answers = {option.lower() for task in TASKS + REPORT for c in task["checks"] for option in c.get("options", [])}
    assert answers & {row["response"].strip(" .").lower() for row in ADDED} <= {"no"}
