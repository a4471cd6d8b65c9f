"""Combine the stored distributions of several teachers into one target for each token of the student.

    MinCE: the teacher with the least cross-entropy on the row; AvgCE: sum of w_j P_j with w = softmax(exp(-CE_j))

as in FuseLLM (Wan et al. 2024, arXiv 2401.10491, section 3). The probability that no kept token has stays apart, as
the probability of any other token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gra.training.fusion.vocabulary import NONE

Ids = NDArray[np.int32]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class TeacherDistributions:
    """The kept distributions of one teacher over rows, in the student's tokens.

    Attributes:
        bounds: where each row's positions begin and end in the arrays below, shape [rows + 1].
        positions: places of predicted tokens in the student's row, shape [n].
        ids: the student's tokens, `NONE` where fewer were kept, shape [n, k].
        logprobs: their log-probabilities in nats, float16, shape [n, k].
        cross_entropy: nats for each of the student's tokens, NaN where the row could not be aligned, shape [rows].
    """

    bounds: NDArray[np.int64]
    positions: Ids
    ids: Ids
    logprobs: NDArray[np.float16]
    cross_entropy: Table

    def row(self, row: int) -> tuple[Ids, Ids, Table]:
        """Return positions, tokens and probabilities of one row."""
        part = slice(int(self.bounds[row]), int(self.bounds[row + 1]))
        ids = self.ids[part]
        probabilities = np.where(ids == NONE, 0.0, np.exp(self.logprobs[part].astype(np.float64)))
        # Half precision rounds, and a distribution may not have more than everything.
        return self.positions[part], ids, probabilities / np.maximum(1.0, probabilities.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Target:
    """What one row learns from teachers: positions [n], the student's tokens [n, k], and probabilities [n, k]."""

    positions: Ids
    ids: Ids
    probabilities: Table


def merge_equal(ids: Ids, probabilities: Table) -> tuple[Ids, Table]:
    """Add the probabilities of equal tokens in each line, and drop those of `NONE`.

    Args:
        ids: tokens, shape [n, k].
        probabilities: shape [n, k].

    Returns:
        Arrays of the same shape, in which each token of a line stands once.
    """
    equal = ids[:, :, None] == ids[:, None, :]
    first = (equal.argmax(-1) == np.arange(ids.shape[1])) & (ids != NONE)
    summed = np.where(equal, probabilities[:, None, :], 0.0).sum(-1)
    return np.where(first, ids, NONE).astype(np.int32), np.where(first, summed, 0.0)


def teacher_weights(cross_entropy: Table, combine: str) -> Table:
    """Return the weight of each teacher on one row.

    Args:
        cross_entropy: of each teacher on the row, NaN where it could not be aligned, shape [teachers].
        combine: `min_ce` or `average_ce`.

    Returns:
        Weights that sum to 1, or zeros when no teacher could be aligned.
    """
    known = ~np.isnan(cross_entropy)
    weights = np.zeros(len(cross_entropy))
    if not known.any():
        return weights
    if combine == "min_ce":
        weights[int(np.nanargmin(cross_entropy))] = 1.0
        return weights
    weights[known] = np.exp(np.exp(-cross_entropy[known]))
    return weights / float(weights.sum())


def target_of(teachers: Sequence[TeacherDistributions], row: int, combine: str) -> Target:
    """Return the combined target of one row.

    At a position that only some of the teachers have, their weights are scaled to sum to 1.
    """
    weights = teacher_weights(np.array([teacher.cross_entropy[row] for teacher in teachers]), combine)
    parts = [(w, *teacher.row(row)) for w, teacher in zip(weights, teachers, strict=True) if w]
    if not parts:
        return Target(np.empty(0, np.int32), np.empty((0, 1), np.int32), np.empty((0, 1)))
    if len(parts) == 1:
        return Target(*parts[0][1:])
    positions = np.unique(np.concatenate([part[1] for part in parts]))
    ids = np.full((len(positions), sum(part[2].shape[1] for part in parts)), NONE, dtype=np.int32)
    probabilities, total, column = np.zeros(ids.shape), np.zeros(len(positions)), 0
    for weight, theirs, tokens, each in parts:
        lines, columns = np.searchsorted(positions, theirs), slice(column, column + tokens.shape[1])
        ids[lines, columns], probabilities[lines, columns] = tokens, weight * each
        total[lines] += weight
        column += tokens.shape[1]
    return Target(positions, *merge_equal(ids, probabilities / total[:, None]))
