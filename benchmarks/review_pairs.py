"""Make pairs of answers of which one is known to be better: control items from seeds, and pairs judged by people.

A control item compares a seed's own response with a wrong one. The wrong response is another seed's (mismatched), the
first third (cut), or has one number changed or one verb negated (contradicted). Judged pairs are LLMBar
(Zeng et al. 2023, `llmbar_419.jsonl`) and PandaLM's test set (Wang et al. 2023, `pandalm_testset_999.jsonl.gz`). Of
PandaLM, two of three annotators must agree. Neither comes with GRA.

A critic trains on half of the instructions of PandaLM (`critic_items`). It is reported on the others and LLMBar
(`held_out`).
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from gra.core.hashing import digest
from gra.core.types import Seed
from gra.data.dedup.minhash import normalised
from gra.stats.paired import paired_difference
from gra.synthesis.measuring.calibration import make_control_items
from gra.synthesis.measuring.controls import ControlItem, ControlKind

CONTROL_ITEMS = ("mismatched", "cut", "contradicted")
JUDGED = ("llmbar natural", "llmbar adversarial", "pandalm")
LLMBAR, PANDALM = "llmbar_419.jsonl", "pandalm_testset_999.jsonl.gz"
ALL = 10_000  # more pairs than any set has
# Neither a number in a name or a list's own, nor a part of a longer one.
_NUMBER = re.compile(r"(?<![\w.,])\d+(?![\w.,)])")
_VERB = re.compile(r"\b(is|are|was|were|can|will|should|has|have|does|do)\b(?! not\b|n't)")


@dataclass(frozen=True, slots=True)
class Pair:
    """An exercise with a better and a worse answer; `kind` says where they come from."""

    name: str
    kind: str
    instruction: str
    better: str
    worse: str


def control_items(seeds: Sequence[Seed], count: int) -> list[Pair]:
    """Up to three pairs for each of `count` seeds; a response that cannot be cut or contradicted makes no such pair."""
    pairs = []
    for seed, other in make_control_items(seeds, count, seed=0):
        worse = {"mismatched": other, "cut": cut(seed.response), "contradicted": contradicted(seed.response)}
        pairs += [
            Pair(f"{kind}-{seed.id}", kind, seed.instruction, seed.response, text)
            for kind, text in worse.items()
            if text not in (None, seed.response)
        ]
    return pairs


def cut(answer: str) -> str | None:
    """The first third of the words; None when that is nothing."""
    words = list(re.finditer(r"\S+", answer))
    return answer[: words[len(words) // 3 - 1].end()] if len(words) >= 3 else None


def contradicted(answer: str) -> str | None:
    """Return the answer with its last number changed or its first verb negated; None when it has neither."""
    numbers = list(_NUMBER.finditer(answer))
    if numbers:
        last = numbers[-1]
        return f"{answer[: last.start()]}{int(last[0]) + 1 + int(last[0]) // 4}{answer[last.end() :]}"
    verb = _VERB.search(answer)
    return f"{answer[: verb.end()]} not{answer[verb.end() :]}" if verb else None


def judged(folder: Path, llmbar: int, pandalm: int) -> list[Pair]:
    """Return pairs of the two sets, as many as asked of each that is in the folder; LLMBar's subsets take turns."""
    pairs: list[Pair] = []
    if (file := folder / LLMBAR).is_file():
        pairs += _drawn(_llmbar(json.loads(line) for line in file.open(encoding="utf-8")), llmbar)
    if (file := folder / PANDALM).is_file():
        pairs += _drawn(_pandalm(_judgments(file)), pandalm)
    return pairs


def held_out(folder: Path, llmbar: int, pandalm: int) -> list[Pair]:
    """Return pairs that train no critic: up to `llmbar` of each of LLMBar's two kinds, and `pandalm`."""
    pairs = [pair for pair in judged(folder, ALL, ALL) if pair.kind != "pandalm" or not trains(pair.instruction)]
    counts = zip(JUDGED, (llmbar, llmbar, pandalm), strict=True)
    return [pair for kind, count in counts for pair in [each for each in pairs if each.kind == kind][:count]]


def trains(instruction: str) -> bool:
    """Return whether an instruction of PandaLM is of the half that may train a critic; spelling does not matter."""
    return int(digest(normalised(instruction)), 16) % 2 == 0


def critic_items(folder: Path, most: int) -> tuple[list[ControlItem], Counter[str]]:
    """Return the better and the worse answers of PandaLM's training half as control items, as many of each.

    Every answer is used once, so none is called both right and wrong. The second value counts what was left out.
    """
    rows = _judgments(folder / PANDALM)
    pairs = judged(folder, 0, ALL)
    reported = {normalised(pair.instruction) for pair in judged(folder, ALL, 0)}
    left_out = Counter({"ties": sum(_choice(row) == 0 for row in rows)})
    left_out["an empty answer"] = len(rows) - len(pairs) - left_out["ties"]
    items: list[ControlItem] = []
    used: set[tuple[str, str]] = set()
    for pair in pairs:
        instruction = normalised(pair.instruction)
        answers = {(instruction, normalised(text)) for text in (pair.better, pair.worse)}
        if not trains(pair.instruction):
            left_out["reported on"] += 1
        elif instruction in reported:
            left_out["instruction in LLMBar"] += 1
        elif len(answers) < 2 or answers & used:
            left_out["an answer is used already"] += 1
        elif len(items) + 2 > most:
            left_out["not needed"] += 1
        else:
            used |= answers
            items += [
                ControlItem(kind, pair.name, pair.instruction, text)
                for kind, text in ((ControlKind.RIGHT_ANSWER, pair.better), (ControlKind.WRONG_ANSWER, pair.worse))
            ]
    return items, left_out


def _llmbar(rows: Iterable[dict[str, Any]]) -> Iterable[Pair]:
    for number, row in enumerate(rows):
        better, worse = row["output_1"], row["output_2"]
        if row["label"] == 2:
            better, worse = worse, better
        group = "natural" if row["subset"] == "natural" else "adversarial"
        yield Pair(f"llmbar-{row['subset']}-{number}", f"llmbar {group}", row["input"], better, worse)


def _judgments(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _choice(row: Mapping[str, Any]) -> int:
    """Return the answer that two of three annotators prefer; 0 for a tie."""
    choice, count = Counter(row[f"annotator{i}"] for i in (1, 2, 3)).most_common(1)[0]
    return choice if count >= 2 and choice in (1, 2) else 0


def _pandalm(rows: Iterable[dict[str, Any]]) -> Iterable[Pair]:
    for row in rows:
        choice = _choice(row)
        answers = str(row["response1"]), str(row["response2"])  # some are JSON's true
        if not choice or not all(answer.strip() for answer in answers):
            continue  # a tie, or nothing to read
        instruction = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        yield Pair(f"pandalm-{row['idx']}", "pandalm", instruction, answers[choice - 1], answers[2 - choice])


def _drawn(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """Return the first pairs in a fixed order with subsets in turn; a smaller sample is part of a larger one."""
    subsets: dict[str, list[Pair]] = {}
    for pair in pairs:
        subsets.setdefault(pair.name.rpartition("-")[0], []).append(pair)
    for subset, members in subsets.items():
        random.Random(subset).shuffle(members)
    turns = zip_longest(*(subsets[name] for name in sorted(subsets)))
    return [pair for turn in turns for pair in turn if pair is not None][:count]


def names(pair: Pair) -> tuple[str, str]:
    """What the better and the worse answer of a pair are called."""
    better = f"own-{pair.name.partition('-')[2]}" if pair.kind in CONTROL_ITEMS else f"{pair.name}-better"
    return better, f"{pair.name}-worse"


def both_scored(scores: Iterable[str], pairs: Sequence[Pair], kind: str) -> list[Pair]:
    """Return the pairs of a kind of which both answers have a score."""
    scored = set(scores)
    return [p for p in pairs if p.kind == kind and scored.issuperset(names(p))]


def won(scores: Mapping[str, float], pair: Pair) -> float:
    """Return 1 where the better answer scores higher, 0.5 for equal scores, else 0."""
    better, worse = (scores[name] for name in names(pair))
    return float(better > worse) + 0.5 * (better == worse)


def gains(plain: Mapping[str, float], trained: Mapping[str, float], pairs: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """Return what an adapter adds to the accuracy on judged pairs; errors are between instructions."""
    found: dict[str, dict[str, Any]] = {}
    for kind in JUDGED:
        held = both_scored(plain.keys() & trained.keys(), pairs, kind)
        if not held:
            continue
        without, ours = ([won(scores, p) for p in held] for scores in (plain, trained))
        gain = paired_difference(ours, without, [p.instruction for p in held], bounded=True)
        found[kind] = {"pairs": len(held), "without": fmean(without), "with": fmean(ours)}
        found[kind] |= {"gain": gain.value, "interval": gain.interval(), "p": gain.p_value()}
    return found


def show_gains(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print what an adapter adds, a line for each reviewer and kind of pair."""
    print("\n| with an adapter | kind | pairs | without | with | gain, 95 % interval |\n|---|---|---|---|---|---|")
    for label, kinds in found.items():
        for kind, at in kinds.items():
            low, high = at["interval"]
            accuracy = f"{at['without']:.2f} | {at['with']:.2f}"
            print(f"| {label} | {kind} | {at['pairs']} | {accuracy} | {at['gain']:+.2f} [{low:+.2f}, {high:+.2f}] |")
