"""Items with known answers, of several kinds, for `review_truth.py`; a program decides whether an answer is right.

| kind | items | an answer is right when |
|---|---|---|
| facts | SciQ questions, answered in a few words | it names the answer, and nothing else |
| sums | GSM8K word problems of at most two steps, worked out | its final value is the right one |
| choice | ARC-Challenge, a reason and then a letter | the letter is the right one |
| format | IFEval instructions | every instruction is followed |
| programs | MBPP, one test shown | all tests pass in the sandbox |
| own_facts, own_sums | control_questions.jsonl of recipes/seeds | as for facts and sums |

The last two are the control questions that a run calibrates on; they are no part of the report. Each kind is split in
two by the hash of its ids: one half to choose on, one half to report on.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.checks.answers import equals, final_answer, same
from gra.checks.ifeval import Instruction, follows, known
from gra.core.hashing import digest
from gra.data.questions import load_questions
from gra.evaluation.benchmarks.load import resolve_benchmark
from gra.sandbox.extract import extract
from gra.sandbox.job import SandboxJob, Verdict
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

KINDS = ("facts", "sums", "choice", "format", "programs")
MAX_TOKENS = {
    "facts": 24, "sums": 200, "choice": 120, "format": 320, "programs": 220, "own_facts": 24, "own_sums": 200
}  # fmt: skip
QUESTIONS = Path(__file__).parents[1] / "recipes" / "seeds" / "control_questions.jsonl"
_STEPS = "Work it out step by step in a few short lines, and end with `Answer:` and the result."
MOST_STEPS = 2  # of a word problem, as its published solution counts them: the 1.5B model fails at most longer ones
_LETTER = re.compile(r"answer\s*(?:is|:)?\s*\(?\**([A-E])\b", re.IGNORECASE)


@dataclass(frozen=True)
class TruthItem:
    """One question, the program that decides about its answers, and how finals of answers are compared."""

    kind: str
    id: str
    instruction: str
    is_right: Callable[[str], bool]
    final: Callable[[str], str | None]  # None where answers of this kind have no final
    agree: Callable[[str, str], bool]


def items(kind: str, half: str, count: int, data: Path) -> list[TruthItem]:
    """Load `count` items of one kind from the half `choose` or `report`."""
    wanted = 0 if half == "choose" else 1
    ranked = sorted(_ALL[kind](data), key=lambda item: digest([kind, item.id]))
    if kind.startswith("own_"):
        return ranked[:count]
    return [item for place, item in enumerate(ranked) if place % 2 == wanted][:count]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _plain(text: str) -> str:
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _facts(data: Path) -> list[TruthItem]:
    found = []
    for row in _rows(resolve_benchmark("sciq", data).path):
        wanted = _plain(row["choices"][row["answer"]])

        def right(answer: str, wanted: str = wanted) -> bool:
            given = _plain(answer)
            return wanted in given and len(given.split()) <= len(wanted.split()) + 6

        text = f"{row['question'].strip()}\nAnswer in a few words, without a sentence around them."
        found.append(TruthItem("facts", row["id"], text, right, _plain, lambda a, b: a == b or a in b or b in a))
    return found


def _sums(data: Path) -> list[TruthItem]:
    found = []
    for number, row in enumerate(_rows(data / "gsm8k_test.jsonl.gz")):
        wanted = row["answer"].rpartition("####")[2].strip()

        def right(answer: str, wanted: str = wanted) -> bool:
            given = final_answer(answer)
            return given is not None and equals(given, wanted)

        if row["answer"].count("<<") > MOST_STEPS:
            continue
        text = f"{row['question'].strip()}\n{_STEPS}"
        found.append(TruthItem("sums", f"gsm8k-{number}", text, right, final_answer, same))
    return found


def _letter(answer: str) -> str | None:
    stated = _LETTER.findall(answer)
    return stated[-1].upper() if stated else None


def _choice(data: Path) -> list[TruthItem]:
    found = []
    for row in _rows(data / "arc_challenge_test.jsonl.gz"):
        choices = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", row["choices"], strict=False))
        wanted = "ABCDE"[row["gold"]]

        def right(answer: str, wanted: str = wanted) -> bool:
            return _letter(answer) == wanted

        text = f"{row['question'].strip()}\n{choices}\nGive the reason in a sentence, then write `Answer: X`."
        found.append(TruthItem("choice", row["id"], text, right, _letter, lambda a, b: a == b))
    return found


def _format(data: Path) -> list[TruthItem]:
    names, found = set(known()), []
    for row in _rows(data / "ifeval.jsonl"):
        kinds = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
        if not {name for name, _ in kinds} <= names or len(row["prompt"]) > 600:
            continue
        asked: list[Instruction] = [
            {"id": name, **{key: value for key, value in given.items() if value is not None}} for name, given in kinds
        ]

        def right(answer: str, asked: list[Instruction] = asked) -> bool:
            return all(follows(one, answer) for one in asked)

        found.append(TruthItem("format", str(row["key"]), row["prompt"], right, lambda _: None, lambda a, b: a == b))
    return found


def _programs(data: Path) -> list[TruthItem]:
    sandbox, found = Sandbox(Permission("--allow-code-execution")), []
    for row in _rows(data / "mbpp_sanitized.jsonl"):
        tests = "\n".join([*row["test_imports"], *row["test_list"]])
        name = re.search(r"\b(\w+)\(", row["test_list"][0].replace("assert", "").replace("set(", ""))
        entry = name[1] if name else None

        def right(answer: str, tests: str = tests, entry: str | None = entry) -> bool:
            program = extract(answer, "", entry)
            if program is None:
                return False
            return sandbox.run(SandboxJob(program.code, tests)).verdict is Verdict.PASSED

        text = f"{row['prompt'].strip()} It must pass this test:\n{row['test_list'][0]}\nGive the code only."
        found.append(TruthItem("programs", str(row["task_id"]), text, right, lambda _: None, lambda a, b: a == b))
    return found


def _own(kind: str) -> list[TruthItem]:
    short = kind == "own_facts"
    return [
        TruthItem(
            kind, each.id, each.instruction, each.is_right, _plain if short else final_answer,
            (lambda a, b: a == b or a in b or b in a) if short else same,
        )
        for each in load_questions(QUESTIONS)
        if bool(each.answers) == short
    ]  # fmt: skip


_ALL: dict[str, Callable[[Path], list[TruthItem]]] = {
    "facts": _facts, "sums": _sums, "choice": _choice, "format": _format, "programs": _programs,
    "own_facts": lambda data: _own("own_facts"), "own_sums": lambda data: _own("own_sums"),
}  # fmt: skip
