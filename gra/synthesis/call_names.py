"""Name what a call belongs to, and read such a name back.

The ledger's column `candidate` holds these names, so their form never changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from gra.core.vocabulary import WorkKind

# "bad" is a response of another seed; "answer" is a member's answer to a control question.
ControlItemCall = Literal[
    "good", "bad", "check", "truncated", "contradicted", "off_format", "right_answer", "wrong_answer", "answer"
]


@dataclass(frozen=True, slots=True)
class NamedWork:
    """Identify a piece of work: calls of the same kind and item are paid for together."""

    kind: WorkKind
    item: str


# kept: ledgers hold these names, also the one for a control item
_FORMS = (
    (WorkKind.CANDIDATE, re.compile(r"r\d+-\d{6}")),
    (WorkKind.CONTROL_ITEM, re.compile(rf"probe-(?:{'|'.join(get_args(ControlItemCall))})-(?P<item>.+)")),
    (WorkKind.ROW, re.compile(r"enrich-r\d+-\d{6}")),
    (WorkKind.SEED, re.compile(r"(?:enrich|domain)-(?P<item>.+)")),
    (WorkKind.ANSWER, re.compile(r"(?:refined|distilled|annotate)-.+")),
)


def candidate_id(round_: int, index: int) -> str:
    """Return the id of a new sample; ids sort in candidate order."""
    return f"r{round_}-{index:06d}"


def round_of(candidate: str) -> int:
    """Return the round of a new sample from its id."""
    return int(candidate.removeprefix("r").partition("-")[0])


def index_of(candidate: str) -> int:
    """Return the index of a new sample within its round from its id."""
    return int(candidate.rpartition("-")[2])


def control_item_name(call: ControlItemCall, seed_id: str) -> str:
    """Name the calls that measure a reviewer on one seed."""
    return f"probe-{call}-{seed_id}"  # kept: ledgers hold this name


def domain_name(seed_id: str) -> str:
    """Name the call that chooses a seed's domain."""
    return f"domain-{seed_id}"


def enrichment_name(sample_id: str) -> str:
    """Name the call that writes a sample's keywords and summary."""
    return f"enrich-{sample_id}"


def answer_id(arm: str, seed_id: str) -> str:
    """Return the id of a candidate that keeps a seed's instruction."""
    return f"{arm}-{seed_id}"


def read_name(name: str) -> NamedWork | None:
    """Return the work that calls of this name belong to, or None for a name of another form."""
    for kind, form in _FORMS:
        if found := form.fullmatch(name):
            return NamedWork(kind, found.groupdict().get("item", name))
    return None
