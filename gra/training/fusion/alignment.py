"""Align two tokenizations of one answer by the bytes that their tokens cover.

A token of the student takes a teacher's distribution only where both tokens begin and end at the same byte. With equal
beginnings alone, a teacher that cuts a word into smaller pieces would teach the student to write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gra.training.fusion.vocabulary import TokenTexts

Places = NDArray[np.int64]


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens of an answer, and the bytes of its content that they cover.

    Attributes:
        starts: the byte at which each token begins; negative before the content.
        ends: the byte at which each token ends.
        size: bytes of the content.
        stop: the place of the stop token right after the content; -1 where it was cut off.
    """

    starts: Places
    ends: Places
    size: int
    stop: int

    @property
    def covers(self) -> int:
        """Return how many bytes of the content the tokens cover; fewer than `size` where the row was cut."""
        return min(self.size, int(self.ends[-1]))


def locate(ids: Sequence[int], vocabulary: TokenTexts, content: str) -> AnswerTokens | None:
    """Return where the tokens of an answer lie in its content; None when they do not spell it.

    Args:
        ids: the tokens after the prompt, with the stop token and what the template writes around the content.
        vocabulary: texts of the tokens.
        content: the answer as the row has it; white space around it is the template's.
    """
    pieces = [vocabulary.texts[number] if number < len(vocabulary.texts) else b"" for number in ids]
    wanted, stream = content.strip().encode(), b"".join(pieces)
    offset = stream.find(wanted)
    if offset < 0 and vocabulary.stop not in ids:  # the row was cut at the length limit
        offset = next((at for at in range(len(stream)) if wanted.startswith(stream[at:])), -1)
    if offset < 0 or not wanted:
        return None
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - offset
    starts = np.concatenate(([-offset], ends[:-1]))
    after = np.flatnonzero((starts == len(wanted)) & (np.asarray(ids) == vocabulary.stop))
    return AnswerTokens(starts, ends, len(wanted), int(after[0]) if len(after) else -1)


def align(student: AnswerTokens, teacher: AnswerTokens) -> tuple[Places, Places]:
    """Return the places of the student's tokens, and of the teacher's, that cover the same bytes.

    Returns:
        Two arrays of one length, each growing. Stop tokens are aligned with each other.
    """
    theirs = {
        (start, end): place
        for place, (start, end) in enumerate(zip(teacher.starts.tolist(), teacher.ends.tolist(), strict=True))
        if 0 <= start < end <= teacher.size
    }
    pairs = [
        (place, theirs[span])
        for place, span in enumerate(zip(student.starts.tolist(), student.ends.tolist(), strict=True))
        if span in theirs
    ]
    if student.stop >= 0 and teacher.stop >= 0:
        pairs.append((student.stop, teacher.stop))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def scored(student: AnswerTokens, teacher: AnswerTokens) -> tuple[int, Places]:
    """Return what a cross-entropy of the answer is taken over, so that teachers can be compared.

    Returns:
        The number of the student's tokens by which the sum is divided, the same for every teacher. Then the places of
        the teacher's tokens that are summed: those of the content that the student sees, and the stop token.
    """
    stops = student.stop >= 0 and teacher.stop >= 0
    inside = (teacher.ends > 0) & (teacher.ends <= student.covers) & (teacher.ends > teacher.starts)
    places = np.flatnonzero(inside)
    count = int(((student.ends > 0) & (student.starts < student.size)).sum()) + (student.stop >= 0)
    return count, np.append(places, teacher.stop) if stops else places
