"""Word problems of two to four steps with known answers, made from templates by a program.

Run as: python benchmarks/word_problems.py --out FOLDER [--count 40]

Writes FOLDER/problems.jsonl and FOLDER/problems_held_out.jsonl in the form of seeds. The two parts share no template
and no name. Each response has one step on each line, and a last line `Answer: ` with the number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from gra.checks.arithmetic import evaluate

PARTS = ("problems", "held_out")
_NAMES = {"problems": "Mira Jonas Tilda Omar Greta Pavel", "held_out": "Ines Bruno Saida Kofi Helga Ravi"}
# A question with numbers a to d, then its steps. The values of the steps are called p, q, r and s in later ones.
_TEMPLATES = {
    "problems": """{n} buys {a} boxes with {b} pens each and gives away {c} pens. How many pens are left?|a * b|p - c
A bus carries {a} people. At a stop {b} get off and {c} get on. At the next stop {d} get off. How many people are on the bus now?|a - b|p + c|q - d
{n} reads {a} pages a day for {b} days, and then {c} pages a day for {d} days. How many pages does {n} read in all?|a * b|c * d|p + q
A shop sells {a} loaves at {b} dollars each and {c} cakes at {d} dollars each. How many dollars does it take in?|a * b|c * d|p + q
{n} saves {a} dollars a week for {b} weeks and then buys a bag for {c} dollars. How many dollars are left?|a * b|p - c
There are {a} rows of {b} chairs in a hall. {c} chairs are broken, and {d} new ones are brought in. How many good chairs are there?|a * b|p - c|q + d
{n} picks {a} apples and a friend picks {b} times as many. Together they eat {c} apples. How many apples remain?|a * b|a + p|q - c
A farmer has {a} hens. Each lays {b} eggs a week. The farmer sells {c} eggs and packs the others. How many eggs are packed?|a * b|p - c
{n} runs {a} laps of {b} meters on Monday and {c} laps of {b} meters on Friday. How many meters is that in all?|a + c|p * b
A tank holds {a} liters. {b} buckets of {c} liters are taken out, and then {d} liters are poured in. How many liters are in the tank?|b * c|a - p|q + d""",  # noqa: E501
    "held_out": """{n} bakes {a} trays of {b} cookies, burns {c} cookies and eats {d}. How many cookies are good and uneaten?|a * b|p - c|q - d
A library has {a} rooms with {b} books each. {c} books are lent out. How many books are in the rooms?|a * b|p - c
{n} earns {a} dollars an hour for {b} hours and spends {c} dollars on lunch and {d} dollars on a ticket. How many dollars remain?|a * b|c + d|p - q
A school orders {a} packs of {b} pencils and {c} packs of {d} crayons. How many pencils and crayons is that together?|a * b|c * d|p + q
{n} plants {a} tulips in each of {b} beds. Rabbits eat {c} of them, and {n} plants {d} more. How many tulips are there now?|a * b|p - c|q + d
A truck brings {a} crates of {b} bottles. {c} bottles are broken on the way, and {d} are given away. How many bottles can be sold?|a * b|c + d|p - q
{n} is {a} years old. An aunt is {b} times as old, and a cousin is {c} years younger than the aunt. How old are the three together?|a * b|p - c|a + p|r + q
On each of {a} floors there are {b} offices with {c} desks each. How many desks are there?|b * c|a * p
A train has {a} cars with {b} places each. {c} places are taken, and {d} more people sit down. How many places are free?|a * b|c + d|p - q
{n} has {a} coins, finds {b} more, and then doubles them by trading. After that {c} coins are lost. How many coins are there?|a + b|p * 2|q - c""",  # noqa: E501
}  # fmt: skip

_MOST_TRIES = 10_000


def make_problems(part: str, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Fill the templates of a part in turn; every value is a positive whole number, and no question comes twice.

    Raises:
        ValueError: when the templates give no further question in `_MOST_TRIES` tries.
    """
    luck, rows, seen = random.Random(f"{part}/{seed}"), [], set()
    templates, names = _TEMPLATES[part].splitlines(), _NAMES[part].split()
    tries = 0
    while len(rows) < count:
        if (tries := tries + 1) > _MOST_TRIES:
            raise ValueError(f"the templates of `{part}` give about {len(rows)} questions, and {count} were asked for")
        question, *steps = templates[len(rows) % len(templates)].split("|")
        numbers = {letter: luck.randint(2, 12) for letter in "abcd"}
        text = question.format(n=luck.choice(names), **numbers)
        if text in seen or (lines := _work_out(steps, numbers)) is None:
            continue
        seen.add(text)
        tries = 0
        rows.append(
            {"id": f"{part}-{len(rows):03}", "domain": "math", "instruction": text, "response": "\n".join(lines)}
        )
    return rows


def _work_out(steps: Sequence[str], numbers: dict[str, int]) -> list[str] | None:
    """Return the lines of a solution; None where a value is not positive."""
    known = {letter: Fraction(value) for letter, value in numbers.items()}
    lines: list[str] = []
    for name, step in zip("pqrs", steps, strict=False):
        value = evaluate(step, **known)
        if value <= 0:
            return None
        known[name] = value
        lines.append(f"{' '.join(str(known.get(word, word)) for word in step.split())} = {value}")
    return [*lines, f"Answer: {lines[-1].rpartition(' ')[2]}"]


def write_problems(folder: Path, count: int, held_out: int, seed: int = 0) -> tuple[Path, Path]:
    """Write both parts and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "problems.jsonl", folder / "problems_held_out.jsonl"
    for file, part, rows in zip(files, PARTS, (count, held_out), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in make_problems(part, rows, seed))
        file.write_text(text, encoding="utf-8")
    return files


def main(
    out: Annotated[Path, typer.Option()] = Path("word-problems"),
    count: Annotated[int, typer.Option(help="problems of each part")] = 40,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write the problems of both parts."""
    for file in write_problems(out, count, count, seed):
        print(file)


if __name__ == "__main__":
    typer.run(main)
