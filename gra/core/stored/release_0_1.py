"""Read the facts that records of release 0.1 state only in the wording of their reason.

Later records hold these facts as values. Nothing else may read a reason's wording.
"""

from __future__ import annotations

from gra.core.vocabulary import FailureCause, RejectedAt

_REJECTED_AT = {
    "instruction: ": RejectedAt.INSTRUCTION_CHECK,
    "response: repeats the instruction": RejectedAt.REPEATS_INSTRUCTION,
    "response: mean score too low": RejectedAt.MEAN_SCORE,
    "program ": RejectedAt.VERIFIER,
    "disputed: rejected": RejectedAt.DISPUTE,
    "adjudicator rejected it": RejectedAt.ADJUDICATOR,
    "a better draft was taken": RejectedAt.BEST_OF_N,
    "same text as ": RejectedAt.SAME_TEXT,
    "nearly the wording of ": RejectedAt.SAME_WORDING,
    "too similar to ": RejectedAt.SAME_EMBEDDING,
    "repeats a test item of ": RejectedAt.CONTAMINATION,
    "accepted after ": RejectedAt.QUOTA,
}
_BY_THE_MODEL = (": unusable answer (", ": answer cut off at the length limit", ": refused")


def read_rejected_at(reason: str) -> RejectedAt | None:
    """Return the step that rejected a candidate or a response, or None when no step did."""
    return next((step for opening, step in _REJECTED_AT.items() if reason.startswith(opening)), None)


def read_failure_cause(reason: str) -> FailureCause:
    """Return the cause of a failure. Every failure that names no answer of a model counts as infrastructure."""
    by_the_model = any(sign in reason for sign in _BY_THE_MODEL)
    return FailureCause.ANSWER if by_the_model else FailureCause.INFRASTRUCTURE
