"""Convert published rows to the columns that GRA uses, with one function a benchmark.

Sources write the same benchmark differently (the hub's columns, documents inside recorded requests);
each function accepts all of them and returns the same item.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Item = dict[str, Any]
Shape = Callable[[Row], Item]

_HOW_TO = re.compile(r"\[[^\]]*\]")


def _lettered(row: Row) -> Item:
    """Convert ARC, OpenBookQA and CommonsenseQA: choices under letters or digits, or already a list with `gold`."""
    question = row.get("question") or row.get("question_stem")
    if question is None:
        question = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    if isinstance(row["choices"], Mapping):
        choices = list(row["choices"]["text"])
        answer = list(row["choices"]["label"]).index(row["answerKey"])
    else:
        choices, answer = list(row["choices"]), row["gold"]
    return _choice(question, choices, answer)


def _hellaswag(row: Row) -> Item:
    """Convert a video caption or a how-to text, and four endings."""
    before = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return _choice(_plain(before), [_plain(ending) for ending in row["endings"]], int(row["label"]))


def _plain(text: str) -> str:
    """Remove the marks of the how-to texts ([header], [step], …); [title] begins a sentence."""
    return re.sub(r" {2,}", " ", _HOW_TO.sub("", text.strip().replace(" [title]", ". "))).strip()


def _piqa(row: Row) -> Item:
    return _choice(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def _boolq(row: Row) -> Item:
    """Convert a passage, then the question with its question mark."""
    return _choice(f"{row['passage']}\n{row['question'].rstrip('?')}?", ["no", "yes"], int(row["answer"]))


def _sciq(row: Row) -> Item:
    """Leave out the supporting text; the right choice's place is drawn from the question, not always the last."""
    choices = [row["distractor1"], row["distractor2"], row["distractor3"]]
    place = hashlib.sha256(row["question"].encode()).digest()[0] % 4
    choices.insert(place, row["correct_answer"])
    return _choice(row["question"], choices, place)


def _mmlu(row: Row) -> Item:
    return {**_choice(row["question"], list(row["choices"]), int(row["answer"])), "category": row["subject"]}


def _gsm8k(row: Row) -> Item:
    """Keep the worked answer as published; its last line is `#### ` and the number."""
    return {"question": row["question"], "answer": row["answer"]}


def _math(row: Row) -> Item:
    """Convert a problem; its answer is the last box of the worked solution, its category the subject."""
    return {"question": row["problem"], "answer": _boxed(row["solution"]), "category": row["type"]}


def _boxed(solution: str) -> str:
    """Return the content of the last \\boxed{...} or \\fbox{...}, or the one token after a \\boxed without braces."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        raise ValueError("the solution has no box")
    rest = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest, maxsplit=1)[0]
    depth = 0
    for at, sign in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return rest[1:at].strip()
    raise ValueError("the box of the solution is not closed")


def _bbh(row: Row) -> Item:
    """Convert `BIG-Bench Hard`: the task is the category, and on the hub the configuration's name."""
    return {"question": row["input"], "answer": row["target"], "category": row.get("task") or row["config"]}


def _ifeval(row: Row) -> Item:
    """Convert a request and the instructions in it that a program can verify, each with its arguments."""
    named = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    return {
        "id": f"ifeval-{row['key']}",
        "question": row["prompt"],
        "instructions": [
            {"id": i, **{k: given[k] for k in sorted(given) if given[k] is not None}} for i, given in named
        ],
    }


def _gpqa(row: Row) -> Item:
    """Put four choices in an order drawn from the question, so that it is the same in every run."""
    choices = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    order = sorted(range(4), key=lambda n: hashlib.sha256(f"{n}/{row['Question']}".encode()).digest())
    item = _choice(row["Question"].strip(), [choices[n].strip() for n in order], order.index(0))
    return {**item, "category": row["High-level domain"]}


def _humaneval(row: Row) -> Item:
    """Convert the beginning of a function, and a `check` of it that the tests call."""
    return {
        "id": row["task_id"],
        "question": f"Complete the Python function `{row['entry_point']}`.",
        "beginning": row["prompt"],
        "entry_point": row["entry_point"],
        "tests": f"{row['test'].strip()}\n\ncheck({row['entry_point']})\n",
        "solution": row["prompt"] + row["canonical_solution"],
    }


def _mbpp(row: Row) -> Item:
    """Convert a sentence and the tests, which the question shows: the function's name is nowhere else."""
    solution = row["code"].replace("\r\n", "\n")
    parts = [*row.get("test_imports", []), row.get("test_setup_code", ""), *row["test_list"]]
    tests = "\n".join(part.replace("\r\n", "\n") for part in parts if part)
    task = (row["text"] if "text" in row else row["prompt"]).strip()
    defined = re.findall(r"^def\s+(\w+)", solution, re.MULTILINE)
    return {
        "id": f"MBPP/{row['task_id']}",
        "question": f"{task}\n\nThese tests must pass:\n\n```python\n{tests}\n```",
        "beginning": "",
        "entry_point": next((name for name in defined if f"{name}(" in row["test_list"][0].replace(" (", "(")), None),
        "tests": f"{tests}\n",
        "solution": solution,
    }


def _choice(question: str, choices: list[str], answer: int) -> Item:
    if not question.strip() or not all(choice.strip() for choice in choices):
        raise ValueError("the question or a choice is empty")
    if not 0 <= answer < len(choices):
        raise ValueError(f"the answer {answer} is not one of {len(choices)} choices")
    return {"question": question, "choices": choices, "answer": answer}


SHAPES: dict[str, Shape] = {
    "lettered": _lettered,
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "boolq": _boolq,
    "sciq": _sciq,
    "mmlu": _mmlu,
    "gsm8k": _gsm8k,
    "math": _math,
    "bbh": _bbh,
    "ifeval": _ifeval,
    "gpqa": _gpqa,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}
