"""Every text scorer on any text: it never raises, and it is done within a bound."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from gra.checks.format import parse_checks
from gra.evaluation.scorers.kinds import TASK_KINDS
from gra.evaluation.task import Sample, SampleScore

# The environment can ask for a longer hunt.
EXAMPLES = int(os.environ.get("GRA_FUZZ_EXAMPLES", "50"))

# Samples of every kind that scores a text, several of a kind where its targets differ.
SAMPLES: list[tuple[str, Sample]] = [
    ("letter", Sample("a", "", "?", choices=("a planet", "the Moon", "a star", "18"), answer=1)),
    ("value", Sample("b", "", "?", target="18")),
    ("value", Sample("c", "", "?", target="\\frac{1}{2}\\text{ cm}^2")),
    ("value", Sample("d", "", "?", target="x^2+1")),
    ("short", Sample("e", "", "Which?\n(A) one\n(B) two", target="(B)")),
    ("short", Sample("f", "", "?", target="18")),
    ("short", Sample("g", "", "?", target="] ) }")),
    ("short", Sample("h", "", "?", target="yes")),
    ("short", Sample("i", "", "?", target="ape bee cat")),
    ("ifeval", Sample("j", "", "?", target=(
        {"id": "punctuation:no_comma"}, {"id": "detectable_format:title"}, {"id": "startend:quotation"},
        {"id": "detectable_format:number_highlighted_sections", "num_highlights": 2},
        {"id": "detectable_content:number_placeholders", "num_placeholders": 2},
        {"id": "keywords:existence", "keywords": ["tree"]}, {"id": "detectable_format:json_format"},
        {"id": "length_constraints:number_sentences", "num_sentences": 3, "relation": "less than"},
    ))),
]  # fmt: skip
LONG = [
    "~" * 32_000, "[" * 16_000, "1+1" * 2_000, "(" * 16_000, "{" * 16_000, "<" * 16_000, "*" * 32_000, "=" * 32_000,
    "$" * 32_000 + "x", "`" * 32_000, "a" * 32_000, "9" * 32_000, "1," * 16_000, "answer:" * 8_000, "Answer:\n" * 8_000,
    "\\boxed{" * 5_000, "\\text{" * 8_000, "\\boxed{" + "(" * 16_000 + "}", "Answer: " + "9" * 5_000, " " * 32_000,
    "\n" * 32_000, "####\n" * 8_000, "'" * 32_000, "- " * 16_000, "A or " * 8_000,
    "<think>" * 8_000, "</think>" * 8_000,
    "answer is " * 8_000, "Answer: 1" + " cm" * 10_000, "<<" * 16_000, "-" * 32_000, "\u2212" * 32_000,
    "\u00b2" * 32_000,
]  # fmt: skip
HARD = [
    "\\boxed{(((9^{99})^{99})^{99})^{99}}", "Answer: ((((9!)!)!)!)", "\\boxed{9!!!}", "\\boxed{(99!)!}",
    "\\boxed{(a+b+c+d+e+f+g)^{99}}", "\\boxed{(x+1)^{99}(y+2)^{99}(z+3)^{99}}", "\\boxed{9^{(9^{(9^9)})}}",
    "\\boxed{\\sqrt{\\sqrt{\\sqrt{2}+3}+5}^{99}}", "\\boxed{\\frac{1}{(10^{-99})^{99}}}", "\\boxed{10^{10^{10}}}",
    "\\boxed{\\sum_{k=1}^{99999999} k}", "\\boxed{\\int_0^1 x^x dx}", "\\boxed{\\log(\\log(\\log(9^{9999})))}",
    "\\boxed{99999999!}", "\\boxed{2^{2^{2^{2^{2^{2}}}}}}", "\\boxed{\\binom{999999}{499999}}",
]  # fmt: skip
RAISED = ["Answer: , 18", "Answer: " + "7" * 400, "Answer: " + "7" * 5_000, "Answer: -", "Answer: ,", "\\boxed{}",
          "\\boxed{,}", "\\boxed{-}", "\\boxed{1/0}", "Answer: 1e999", "\ud83d", "Answer: \udc00", "\0",
          "Answer: \u0661\u0668",
          "Answer: \u00b2", "Answer: \u2460", "\\boxed{\\frac{}{}}", "\\boxed{^}", "Answer: 0x12",
          "Answer: 1.2.3.4"]  # fmt: skip


def score(kind: str, sample: Sample, text: str, finish: str = "stop") -> SampleScore:
    found = TASK_KINDS[kind].score(sample, text, finish)
    assert found.verdict in TASK_KINDS[kind].verdicts
    json.dumps(found.columns())
    return found


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Start the child processes, whose imports take a second each."""
    for kind, sample in SAMPLES:
        score(kind, sample, "\\boxed{x+1}")


@pytest.mark.parametrize("text", LONG, ids=lambda text: repr(text[:12]))
def test_long_text_is_scored_in_less_than_a_second(text: str) -> None:
    slow = {}
    for kind, sample in SAMPLES:
        begun = time.process_time()
        score(kind, sample, text)
        slow[kind, sample.id] = time.process_time() - begun
    assert max(slow.values()) < 1, slow


@pytest.mark.parametrize("text", HARD)
def test_formula_that_cannot_be_computed_is_wrong(text: str) -> None:
    begun = time.monotonic()
    assert score("value", SAMPLES[1][1], text).verdict == "wrong"
    assert time.monotonic() - begun < 60, "killed after 3 seconds of processor time"


@pytest.mark.parametrize("text", RAISED, ids=lambda text: repr(text[:16]))
def test_odd_answer_raises_nothing(text: str) -> None:
    for kind, sample in SAMPLES:
        for finish in ("stop", "length"):
            score(kind, sample, text, finish)


PIECES = st.sampled_from([
    "answer", "Answer:", "the answer is", "####", "\\boxed{", "}", "{", "(", ")", "[", "]", "A", "B", "(B)", "I",
    "18", "-18",
    "\u2212", "\u2013", ",", ".", "/", "^", "=", "$", "\\text{ cm}", "\\frac{1}{2}", "^2", "!", "%", " or ", " and ",
    "\n", " ",
    "<think>", "</think>", "```", "**", "`", "\"", "x", "sqrt", "\\sqrt{2}", "\\pi", "yes", "cm", "\u00bd", "\u00b2",
])  # fmt: skip


@given(text=st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map("".join)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_text_has_a_score_within_a_bound(text: str) -> None:
    begun = time.process_time()
    for kind, sample in SAMPLES:
        for finish in ("stop", "length"):
            score(kind, sample, text, finish)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("text", [*LONG, *RAISED], ids=lambda text: repr(text[:12]))
def test_format_checks_of_the_shipped_suite_are_bounded(text: str) -> None:
    rows = [json.loads(line) for line in Path(ROOT / "eval/tasks/instructions.jsonl").read_text().splitlines()]
    checks: dict[str, Any] = {check["kind"]: check for row in rows for check in row["checks"]}
    sample = Sample("k", "", "?", target=parse_checks(list(checks.values()), "here"))
    begun = time.process_time()
    assert TASK_KINDS["instructions"].score(sample, text, "stop").passed in (True, False)
    assert time.process_time() - begun < 1
