"""Make pairs of answers of which one is known to be better: control items from seeds, and pairs judged by people.

A control item compares a seed's own response with a wrong one. The wrong response is another seed's (mismatched), the
first third (cut), or has one number changed or one verb negated (contradicted). Judged pairs are LLMBar
(Zeng et al. 2023, `llmbar_419.jsonl`) and PandaLM's test set (Wang et al. 2023, `pandalm_testset_999.jsonl.gz`). Of
PandaLM, two of three annotators must agree. Neither comes with GRA.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gra.core.types import Seed
from gra.synthesis.measuring.calibration import make_control_items

CONTROL_ITEMS = ("mismatched", "cut", "contradicted")
LLMBAR, PANDALM = "llmbar_419.jsonl", "pandalm_testset_999.jsonl.gz"
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
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            pairs += _drawn(_pandalm(map(json.loads, lines)), pandalm)
    return pairs


def _llmbar(rows: Iterable[dict[str, Any]]) -> Iterable[Pair]:
    for number, row in enumerate(rows):
        better, worse = row["output_1"], row["output_2"]
        if row["label"] == 2:
            better, worse = worse, better
        group = "natural" if row["subset"] == "natural" else "adversarial"
        yield Pair(f"llmbar-{row['subset']}-{number}", f"llmbar {group}", row["input"], better, worse)


def _pandalm(rows: Iterable[dict[str, Any]]) -> Iterable[Pair]:
    for row in rows:
        votes = Counter(row[f"annotator{i}"] for i in (1, 2, 3))
        choice, count = votes.most_common(1)[0]
        answers = str(row["response1"]), str(row["response2"])  # some are JSON's true
        if count < 2 or choice not in (1, 2) or not all(answer.strip() for answer in answers):
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
