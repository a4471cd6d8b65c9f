"""Enumerations of the facts that code branches on; sentences for people are written beside them.

Ledgers, manifests and lineage files hold these values, so existing values never change.
"""

from __future__ import annotations

from enum import StrEnum


class RejectedAt(StrEnum):
    """Name the step that kept a candidate out of the dataset."""

    INSTRUCTION_CHECK = "instruction_check"
    UNUSUAL_INPUT = "unusual_input"  # SELF-GUIDE: words around the input, or an unusual length
    NO_AGREEMENT = "no_agreement"  # SELF-GUIDE: too few draws give the same output
    REPEATS_INSTRUCTION = "repeats_instruction"
    SPECIAL_TOKEN = "special_token"  # the text holds a token that ends or begins a turn of a chat template
    VERIFIER = "verifier"
    MEAN_SCORE = "mean_score"
    DISPUTE = "dispute"  # the recipe rejects disputed candidates without an adjudicator
    ADJUDICATOR = "adjudicator"
    BEST_OF_N = "best_of_n"  # accepted by the gate; another response to the same instruction was better
    SAME_TEXT = "same_text"
    SAME_WORDING = "same_wording"
    SAME_EMBEDDING = "same_embedding"
    CONTAMINATION = "contamination"
    QUOTA = "quota"
    PERSON = "person"  # a person dropped it at the desk


class FailureCause(StrEnum):
    """Name what left a candidate without a verdict."""

    ANSWER = "answer"  # a model answered, and no attempt gave a usable answer
    REQUEST = "request"  # the call cannot be answered at all, such as a prompt longer than the context
    INFRASTRUCTURE = "infrastructure"  # time-outs, lost connections, server errors: asked again at the next start


class StopReason(StrEnum):
    """Name what ended a round, or a run over the seeds; the manifest lists these values as `stopped`."""

    ENOUGH_ACCEPTED = "enough accepted"
    CANDIDATE_LIMIT = "candidate limit"
    BUDGET = "budget"
    INFRASTRUCTURE = "infrastructure"  # rows are missing because models or servers failed to answer


class HumanVerdict(StrEnum):
    """Name what a person decided about a candidate; the ledger's table `decisions` holds these values."""

    KEEP = "keep"
    DROP = "drop"
    EDIT = "edit"  # kept with other texts
    SKIP = "skip"  # looked at, and left open
    UNDO = "undo"  # takes back the person's last decision about the candidate


class CallPurpose(StrEnum):
    """Name what a call is for; the ledger's column `role` holds these values."""

    GENERATOR = "generator"
    REVIEWER = "reviewer"
    ADJUDICATOR = "adjudicator"
    ENRICHER = "enricher"
    TEACHER = "teacher"
    REVISER = "reviser"  # the generator again, with what was said of its response
    SHORTENER = "shortener"  # the author again, after an answer that was cut off
    SOLVER = "solver"  # an answer or a program for a verifier or a reviewer, and no part of a row
    ANNOTATOR = "annotator"  # labels of a text
    STUDENT = "student"  # how likely a checkpoint of a student finds a given answer

    @property
    def generates(self) -> bool:
        """Whether the call makes a row; other calls review one."""
        return self in (
            CallPurpose.GENERATOR, CallPurpose.ENRICHER, CallPurpose.TEACHER, CallPurpose.REVISER,
            CallPurpose.SHORTENER, CallPurpose.ANNOTATOR,
        )  # fmt: skip

    @property
    def writes(self) -> bool:
        """Whether the call uses the member's sampling settings; other calls decode greedily."""
        return self not in (CallPurpose.REVIEWER, CallPurpose.ADJUDICATOR, CallPurpose.STUDENT)


class WorkKind(StrEnum):
    """Name the kind of work that a group of calls does; `gra plan` forecasts costs by kind."""

    CANDIDATE = "candidate"  # a new sample of a round
    CONTROL_ITEM = "pair"  # one seed of which reviewers judge the right and a wrong response
    ROW = "row"  # an accepted row that gets keywords and a summary
    SEED = "seed"  # a seed that gets a domain, or keywords and a summary
    ANSWER = "answer"  # a new response to a seed's own instruction, or a seed's text that gets labels

    @property
    def prepares(self) -> bool:
        """Whether the work is done once, however many rows are made."""
        return self in (WorkKind.CONTROL_ITEM, WorkKind.SEED)
