"""Measure how far a response agrees with other responses to the same instruction.

Self-consistency (Wang et al. 2022, arXiv 2203.11171) compares final values. Responses without one are compared by their
words: by containment where they are short, otherwise by the F1 score of their words (Rajpurkar et al. 2016). Words that
the instruction already holds say nothing about agreement, and do not count while others are left.
Raise `AGREEMENT_VERSION` with every change of what is returned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from gra.checks.answers import final_answer, same

AGREEMENT_VERSION = 1
_SHORT = 6  # words up to which a response is a name or a term
_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the", "is", "are", "of", "it", "in", "to", "and"})


def agreement(instruction: str, response: str, others: Sequence[str]) -> float:
    """Return the mean agreement of a response with other responses.

    Args:
        instruction: what all of them answer.
        response: the response to judge.
        others: at least one further response.

    Returns:
        0 (none agrees) to 1 (all agree).

    Raises:
        ValueError: when there are no other responses.
    """
    if not others:
        raise ValueError("agreement needs at least one other response")
    own = final_answer(response)
    values = [final_answer(other) for other in others]
    if own is not None and any(value is not None for value in values):
        return fmean(float(value is not None and same(own, value)) for value in values)
    asked = frozenset(_words(instruction))
    return fmean(_overlap(_words(response), _words(other), asked) for other in others)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word not in _ARTICLES]


def _overlap(one: Sequence[str], two: Sequence[str], asked: frozenset[str]) -> float:
    """Return containment of short texts, and otherwise the F1 score of the words that the instruction lacks."""
    if len(one) <= _SHORT and len(two) <= _SHORT:
        short, long = sorted((one, two), key=len)
        return float(bool(short) and set(short) <= set(long))
    first, second = (Counter(w for w in words if w not in asked) or Counter(words) for words in (one, two))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0
