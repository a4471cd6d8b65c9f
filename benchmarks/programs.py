"""What the program reviewers find and what they miss: demands read from IFEval's prompts, arithmetic on GSM8K.

Run as: python benchmarks/programs.py [--ifeval FILE] [--gsm8k FILE] [--gsm8k-held-out FILE] [--json FILE] [--show 20]

IFEval (Zhou et al. 2023) names the demands of each of its prompts. The patterns of `gra.checks.instruction_constraints`
were written with every other prompt in sight. So figures are given for those ("seen") and the rest ("held out"). The
solutions of GSM8K (Cobbe et al. 2021) are right, so every broken claim is a false alarm; in a second pass one result of
each is changed, and a solution without a broken claim is a miss. False alarms of the training split were read while
the rules were written, those of the test split were not. `--show` prints so many mistakes of the parts that were seen.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.checks.answers import final_answer, same
from gra.checks.arithmetic import claims
from gra.checks.format import FormatCheck
from gra.checks.instruction_constraints import read_constraints
from gra.core.files import write_json
from gra.core.run_folder import environment

Demand = tuple[str, str]  # kind, and its arguments in one form
_SHARED = Path("../shared/data")
_PLAIN = {
    "punctuation:no_comma": "no_commas",
    "detectable_format:title": "titled",
    "startend:quotation": "quoted",
    "detectable_format:json_format": "json_value",
    "change_case:english_lowercase": "lowercase",
    "change_case:english_capital": "uppercase",
}
_COUNTED = {
    "detectable_format:number_bullet_lists": ("bullet_list", "num_bullets"),
    "detectable_format:number_highlighted_sections": ("highlights_at_least", "num_highlights"),
    "detectable_content:number_placeholders": ("placeholders_at_least", "num_placeholders"),
    "length_constraints:number_paragraphs": ("paragraphs_exactly", "num_paragraphs"),
}


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def named(kind: str, given: dict[str, Any]) -> Iterator[Demand]:
    """The demands of one IFEval instruction in our words; a kind we have no check for keeps its own name."""
    if kind in _PLAIN:
        yield _PLAIN[kind], ""
    elif kind in _COUNTED:
        ours, key = _COUNTED[kind]
        yield ours, str(given[key])
    elif kind in ("length_constraints:number_words", "length_constraints:number_sentences"):
        unit = kind.rpartition("_")[2]
        n = int(given[f"num_{unit}"])
        yield (f"{unit}_at_least", str(n)) if given["relation"] == "at least" else (f"{unit}_at_most", str(n - 1))
    elif kind == "keywords:existence":
        yield from (("has_word", f"{bare(word)} 1") for word in given["keywords"])
    elif kind == "keywords:forbidden_words":
        yield from (("lacks_word", f"{bare(word)} 1") for word in given["forbidden_words"])
    elif kind == "keywords:frequency":
        ours = "has_word" if given["relation"] == "at least" else "lacks_word"
        yield ours, f"{bare(given['keyword'])} {given['frequency']}"
    elif kind == "startend:end_checker":
        yield "last_words", bare(given["end_phrase"])
    elif kind == "detectable_content:postscript":
        yield "postscript", given["postscript_marker"].replace(".", "")
    else:
        yield kind, ""


def read(check: FormatCheck) -> Demand:
    """One of our checks in the same form."""
    a = check.arguments
    match check.kind:
        case "has_word":
            return "has_word", f"{bare(a['text'])} {a.get('at_least', 1)}"
        case "lacks_word":
            return "lacks_word", f"{bare(a['text'])} {a.get('more_than', 1)}"
        case "last_words":
            return "last_words", bare(a["text"])
        case "postscript":
            return "postscript", a["marker"].replace(".", "")
        case "json_keys":
            return "json_value", ""
    return check.kind, " ".join(map(str, a.values()))


def measure_demands(file: Path, show: int) -> dict[str, Any]:
    """True and false finds and misses by kind, for the prompts that were seen and for those that were not."""
    counts: dict[str, dict[str, Counter[str]]] = {"seen": {}, "held out": {}}
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for place, row in enumerate(rows):
        part = "held out" if place % 2 else "seen"
        asked = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        truth = {demand for kind, given in asked for demand in named(kind, given)}
        found = {read(check) for check in read_constraints(row["prompt"])}
        if any(kind == "bullet_list" for kind, _ in truth):
            found.discard(("bulleted", ""))  # weaker than what was asked, and true
        for outcome, demands_ in (("hit", truth & found), ("false", found - truth), ("miss", truth - found)):
            for kind, arguments in demands_:
                counts[part].setdefault(kind, Counter())[outcome] += 1
                if part == "seen" and outcome != "hit" and show > 0 and ":" not in kind:
                    show -= 1
                    print(f"{outcome}: {kind} {arguments} | {row['key']} {row['prompt'][:700]!r}\n")
    return {part: {kind: dict(found) for kind, found in sorted(kinds.items())} for part, kinds in counts.items()}


def print_demands(counts: dict[str, Any]) -> None:
    for part, kinds in counts.items():
        print(f"\n| demand ({part}) | asked | found | false | precision | recall |\n|---|---|---|---|---|---|")
        ours = {kind: found for kind, found in kinds.items() if ":" not in kind}
        for kind, found in [*ours.items(), ("all of these kinds", summed(ours)), ("all of IFEval", summed(kinds))]:
            hit, false, miss = (found.get(outcome, 0) for outcome in ("hit", "false", "miss"))
            precision = f"{hit / (hit + false):.3f}" if hit + false else ""
            recall = f"{hit / (hit + miss):.2f}" if hit + miss else ""
            print(f"| {kind} | {hit + miss} | {hit} | {false} | {precision} | {recall} |")


def summed(kinds: dict[str, dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for found in kinds.values():
        total.update(found)
    return total


def corrupted(solution: str, luck: random.Random) -> str | None:
    """The solution with one computed result changed: by one, in a digit, or by a factor of ten."""
    results = list(re.finditer(r"<<[^<>]+>>(\d[\d,]*(?:\.\d+)?)", solution))
    if not results:
        return None
    chosen = luck.choice(results)
    value = chosen[1].replace(",", "")
    wrong = luck.choice(
        [str(int(float(value)) + luck.choice((1, 2, 3, 10))), value[:-1] + str((int(value[-1]) + 3) % 10), value + "0"]
    )
    if float(wrong) == float(value):
        wrong = str(int(float(value)) + 1)
    return solution[: chosen.start(1)] + wrong + solution[chosen.end(1) :]


def measure_arithmetic(file: Path, show: int) -> dict[str, Any]:
    """False alarms on gold solutions, misses on corrupted ones, and the final answers that were read."""
    luck = random.Random(0)
    found: Counter[str] = Counter()
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    begun = time.monotonic()
    for row in rows:
        solution, _, gold = row["answer"].rpartition("####")
        stated = claims(visible(solution))
        found["claims"] += len(stated)
        found["solutions"] += 1
        found["with a claim"] += bool(stated)
        if broken := [claim.text for claim in stated if not claim.holds]:
            found["false alarms"] += 1
            if show > 0:
                show -= 1
                print(f"false alarm: {broken} | {visible(solution)!r}\n")
        if (changed := corrupted(solution, luck)) is not None:
            found["corrupted"] += 1
            found["caught"] += any(not claim.holds for claim in claims(visible(changed)))
        answer = final_answer(visible(solution))
        found["answers read"] += answer is not None
        found["answers right"] += answer is not None and same(answer, gold.strip().replace(",", ""))
    return {**found, "seconds": round(time.monotonic() - begun, 2)}


def visible(solution: str) -> str:
    """A solution without the calculator's notes."""
    return re.sub(r"<<[^<>]*>>", "", solution).strip()


def main(
    ifeval: Path = _SHARED / "bench" / "ifeval.jsonl",
    gsm8k: Path = _SHARED / "seeds" / "gsm8k_train.jsonl.gz",
    gsm8k_held_out: Path = _SHARED / "bench" / "gsm8k_test.jsonl.gz",
    show: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print the tables."""
    form = measure_demands(ifeval, show)
    print_demands(form)
    sums = {"seen": measure_arithmetic(gsm8k, show), "held out": measure_arithmetic(gsm8k_held_out, 0)}
    print("\n| GSM8K | seen | held out |\n|---|---|---|")
    for name, value in sums["seen"].items():
        print(f"| {name} | {value} | {sums['held out'].get(name, 0)} |")
    if json_file:
        write_json(json_file, {"demands": form, "arithmetic": sums, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
