"""Index the items of a suite, and decide whether a row of a dataset is contaminated.

A row is found in three ways, from the most certain to the least:

- ngram: runs of 8 words of the question stand in one text of the row. `score` is the share of the question's words that
  such runs cover, `longest` the longest unbroken run. A question of fewer than 8 words has to stand there whole.
- minhash: a text of the row shares `score` (Jaccard) of its three-word shingles with the question, alone or with its
  choices: light edits, other numbers, reordered clauses.
- embedding: the row's first text lies at cosine `score` from the question; only when embeddings are given.

Verdicts:

- **contaminated**: four fifths of a question are covered, half of it with 13 words in one run, or Jaccard 0.5
- **suspect**: any other run of 8 words, Jaccard 0.35, or cosine 0.85
- **clean**: otherwise

A run of 8 words that more than 20 items of the suite share is boilerplate and decides nothing.
A question of fewer than 5 words counts only when its choices are in the row too.
So does a question of fewer than 13 words that several items share.
When question and choices have fewer than 8 words, they have to be in order and side by side.
In scripts without spaces every character is a word, and all of these numbers of words are doubled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gra.data.contamination.sketch import SHINGLE, NearDuplicates
from gra.data.contamination.texts import SuiteItem
from gra.data.contamination.words import GramTable, Hashes, Vocabulary, characters_per_word, excerpt, grams, words

ContaminationVerdict = Literal["clean", "suspect", "contaminated"]
Method = Literal["ngram", "minhash", "embedding"]
GRAM, LONG = 8, 13
MOST, HALF = 0.8, 0.5  # of a question's words
NEAR, NEARBY, COSINE = 0.5, 0.35, 0.85
_COMMON = 20  # items
_ALONE = 5  # words that a question needs to count without its choices
_BETWEEN = 3  # words between a short question and its choices: "A", "option B"
_SHOWN = 400  # characters
_BLOCK = 2048
RULES = 2  # raised with every change that may change a verdict
Row = Sequence[str]  # the texts of one row: instruction, response, …


@dataclass(frozen=True, slots=True)
class Match:
    """One item of the suite found in a row; `text` is what they share, or the question, `row_text` the row's part."""

    item: int
    method: Method
    verdict: ContaminationVerdict  # what this match alone makes of the row
    score: float
    longest: int
    text: str
    row_text: str


def verdict_of(matches: Sequence[Match]) -> ContaminationVerdict:
    """Return the worst verdict of the matches."""
    verdicts = {match.verdict for match in matches}
    return "contaminated" if "contaminated" in verdicts else "suspect" if verdicts else "clean"


@dataclass(frozen=True, slots=True)
class _Question:
    words: list[str]
    grams: Hashes  # every run of `length` words, in order
    length: int
    needs: list[tuple[int, np.uint64]]  # words and hash of each choice without which it does not count
    unit: int  # words that count as one: 2 in scripts where every character is a word


class SuiteIndex:
    """An index of a suite's items, which finds them in the rows of a dataset.

    Args:
        items: the items of the suite.
        embeddings: unit rows, one a question, for a comparison in meaning; shape [items, dimensions].
        cosine: the similarity from which a row is suspect.
    """

    def __init__(
        self, items: Sequence[SuiteItem], embeddings: NDArray[np.float32] | None = None, cosine: float = COSINE
    ) -> None:
        self.items = list(items)
        self._embeddings, self._cosine = embeddings, cosine
        texts = [words(item.text) for item in self.items]
        choices = [[words(choice) for choice in item.choices] for item in self.items]
        self._vocabulary = Vocabulary([*texts, *(choice for group in choices for choice in group)])
        shared = Counter(map(tuple, texts))
        self._questions = [
            self._question(text, group, shared[tuple(text)] > 1) for text, group in zip(texts, choices, strict=True)
        ]
        self._tables = {length: self._table(length) for length in sorted({q.length for q in self._questions} - {0})}
        self._near = self._near_duplicates(texts, choices)

    def check(self, rows: Sequence[Row], embeddings: NDArray[np.float32] | None = None) -> list[list[Match]]:
        """Return the matches of each row, one an item, strongest first.

        Args:
            rows: the texts of each row.
            embeddings: unit rows, one for the first text of each row; shape [rows, dimensions].
        """
        texts = [(row, text) for row, parts in enumerate(rows) for text in parts]
        values = [self._vocabulary.values(words(text)) for _, text in texts]
        own: dict[int, list[Hashes]] = {}
        for (row, _), value in zip(texts, values, strict=True):
            own.setdefault(row, []).append(value)
        found: list[dict[int, Match]] = [{} for _ in rows]
        for place, item in self._candidates(values):
            row, text = texts[place]
            if self._has_choices(item, own[row]):
                _keep(found[row], self._by_words(item, text, values[place]))
        shingles = [np.unique(grams(value, SHINGLE)) for value in values]
        for place, item, score in self._near.find(shingles):
            row, text = texts[place]
            verdict: ContaminationVerdict = "contaminated" if score >= NEAR else "suspect"
            shown = self.items[item].text[:_SHOWN]
            _keep(found[row], Match(item, "minhash", verdict, score, 0, shown, text[:_SHOWN]))
        if embeddings is not None and self._embeddings is not None:
            self._by_meaning(rows, embeddings, found)
        return [sorted(matches.values(), key=_strength, reverse=True) for matches in found]

    def _question(self, text: list[str], choices: list[list[str]], shared: bool) -> _Question:
        unit = characters_per_word(text)
        length = min(GRAM * unit, len(text))
        found = grams(self._vocabulary.values(text), length) if length else np.zeros(0, dtype=np.uint64)
        ambiguous = len(text) < _ALONE * unit or (shared and len(text) < LONG * unit)
        needed = [(len(c), grams(self._vocabulary.values(c), len(c))[0]) for c in choices if c]
        return _Question(text, found, length, needed if ambiguous else [], unit)

    def _table(self, length: int) -> GramTable:
        """Make a table of the grams of this length that few items have; it holds each item's rarest gram too."""
        owners = [i for i, q in enumerate(self._questions) if q.length == length]
        sets = [np.unique(self._questions[i].grams) for i in owners]
        keys = np.concatenate(sets)
        items = np.repeat(np.array(owners, dtype=np.int32), [len(s) for s in sets])
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        sharing = counts[inverse]
        kept = sharing <= _COMMON
        begins = np.cumsum([0, *(len(s) for s in sets)])
        for begin, end in pairwise(begins.tolist()):
            kept[begin + int(sharing[begin:end].argmin())] = True
        return GramTable(keys[kept], items[kept])

    def _near_duplicates(self, texts: list[list[str]], choices: list[list[list[str]]]) -> NearDuplicates:
        shingles, owners = [], []
        for item, (text, group) in enumerate(zip(texts, choices, strict=True)):
            whole = [*text, *(word for choice in group for word in choice)]
            for version in [text, whole] if group else [text]:
                question = self._questions[item]
                if len(version) >= GRAM * question.unit and not (version is text and question.needs):
                    shingles.append(np.unique(grams(self._vocabulary.values(version), SHINGLE)))
                    owners.append(item)
        return NearDuplicates(shingles, owners, NEARBY)

    def _candidates(self, values: Sequence[Hashes]) -> list[tuple[int, int]]:
        """Return the pairs of a text and an item that share a gram of the tables."""
        separator = np.zeros(1, dtype=np.uint64)  # between two texts, so that no gram reaches over
        joined = np.concatenate([part for value in values for part in (value, separator)] or [separator])
        ends = np.cumsum([len(value) + 1 for value in values])
        pairs: set[tuple[int, int]] = set()
        for length, table in self._tables.items():
            places, items = table.find(grams(joined, length))
            pairs.update(zip(np.searchsorted(ends, places, side="right").tolist(), items.tolist(), strict=True))
        return sorted(pairs)

    def _by_words(self, item: int, text: str, values: Hashes) -> Match:
        question = self._questions[item]
        there = np.isin(question.grams, grams(values, question.length))
        covered = np.zeros(len(question.words), dtype=np.bool_)
        for offset in range(question.length):
            covered[offset : offset + len(there)] |= there
        first, run = _longest_run(there)
        share, longest = float(covered.mean()), run + question.length - 1
        sure = share >= MOST or (share >= HALF and longest >= LONG * question.unit)
        begin = np.flatnonzero(grams(values, question.length) == question.grams[first])
        shown = excerpt(self.items[item].text, first, longest)[:_SHOWN]
        other = excerpt(text, int(begin[0]), longest)[:_SHOWN]
        return Match(item, "ngram", "contaminated" if sure else "suspect", share, longest, shown, other)

    def _has_choices(self, item: int, texts: Sequence[Hashes]) -> bool:
        """Return whether every choice that the question needs is in the row.

        When question and choices are short together, they have to be side by side.
        """
        question = self._questions[item]
        if question.needs and len(question.words) + sum(n for n, _ in question.needs) < GRAM * question.unit:
            parts = [(question.length, question.grams[0]), *question.needs]
            return any(_side_by_side(parts, text) for text in texts)
        return all(any(choice in grams(text, n) for text in texts) for n, choice in question.needs)

    def _by_meaning(self, rows: Sequence[Row], embeddings: NDArray[np.float32], found: list[dict[int, Match]]) -> None:
        assert self._embeddings is not None
        for start in range(0, len(rows), _BLOCK):
            close = embeddings[start : start + _BLOCK] @ self._embeddings.T
            for place, item in enumerate(close.argmax(axis=1).tolist()):
                score, row = float(close[place, item]), start + place
                if score >= self._cosine and rows[row]:
                    shown, other = self.items[item].text[:_SHOWN], rows[row][0][:_SHOWN]
                    # However near, it may be another exercise of the same kind: suspect, never more.
                    _keep(found[row], Match(item, "embedding", "suspect", score, 0, shown, other))


def _keep(matches: dict[int, Match], new: Match) -> None:
    """Keep the strongest match of each item, in place."""
    old = matches.get(new.item)
    if old is None or _strength(new) > _strength(old):
        matches[new.item] = new


def _strength(match: Match) -> tuple[bool, int, float, int]:
    methods: tuple[Method, ...] = ("embedding", "minhash", "ngram")
    return match.verdict == "contaminated", methods.index(match.method), match.score, match.longest


def _side_by_side(parts: Sequence[tuple[int, np.uint64]], text: Hashes) -> bool:
    """Return whether the parts, as words and hashes, follow each other in a text with few words between them."""
    ends: set[int] | None = None
    for length, part in parts:
        begins = np.flatnonzero(grams(text, length) == part).tolist()
        ends = {begin + length for begin in begins if ends is None or _follows(begin, ends)}
    return bool(ends)


def _follows(begin: int, ends: set[int]) -> bool:
    return any(begin - gap in ends for gap in range(_BETWEEN + 1))


def _longest_run(there: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the place and the length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(edges[::2][best]), int(lengths[best])
