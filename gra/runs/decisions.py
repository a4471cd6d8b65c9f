"""Apply what people decided to the candidates of a run.

A decision holds for the texts that the person saw. When the synthesis is run again, candidates with the same texts keep
their decisions; those with other texts have none. The newest decision of any person stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import find_ledger, read_resolved_recipe
from gra.core.types import Candidate, HumanDecision, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.ledger.reader import LedgerReader

Decisions = Mapping[str, Sequence[HumanDecision]]
_KEPT_FROM = (State.REJECTED, State.DUPLICATE, State.SURPLUS)  # never a contaminated or a failed candidate


def run_name(run: Path) -> str:
    """Return the recipe's name, under which the ledger has the run's rows."""
    name = RunFolder(run).manifest().get("synthesis", {}).get("name") or read_resolved_recipe(run).get("name")
    return str(name or run.resolve().name)


def read_decisions(run: Path) -> dict[str, list[HumanDecision]]:
    """Read the decisions about a run's candidates from its ledger; none where it has no ledger.

    Raises:
        DataError: the ledger is damaged.
    """
    ledger = find_ledger(run)
    if ledger is None:
        return {}
    reader = LedgerReader(ledger)
    try:
        return reader.decisions(run_name(run))
    finally:
        reader.close()


def standing(decisions: Iterable[HumanDecision], subject: str) -> list[HumanDecision]:
    """Return the last decision of each person about these texts, as `last_decisions`, without skips."""
    return [decision for decision in last_decisions(decisions, subject) if decision.verdict is not HumanVerdict.SKIP]


def last_decisions(decisions: Iterable[HumanDecision], subject: str) -> list[HumanDecision]:
    """Return the last decision of each person about these texts, oldest first; without what was undone.

    Args:
        decisions: about one candidate, in the order of writing.
        subject: `HumanDecision.subject_of` the candidate's texts.
    """
    by_person: dict[str, list[HumanDecision]] = {}
    for decision in decisions:
        made = by_person.setdefault(decision.reviewer, [])
        if decision.subject != subject:
            continue
        if decision.verdict is not HumanVerdict.UNDO:
            made.append(decision)
        elif made:
            made.pop()
    return sorted((made[-1] for made in by_person.values() if made), key=lambda decision: decision.written)


def why_not_kept(response: str, rejected_at: str | None) -> str:
    """Return why a candidate cannot be kept as it is; empty where it can."""
    if not response:
        return "it has no response to keep"
    if rejected_at == RejectedAt.SPECIAL_TOKEN:
        return "its text holds a chat template's token"
    return ""


def apply_decisions(candidate: Candidate, decisions: Decisions) -> Candidate:
    """Return a candidate as people decided; the same candidate where there is no decision.

    A kept candidate is accepted. That does not hold for one that is contaminated or failed, lacks a response, or has a
    chat template's token. A dropped row is rejected.
    """
    made = decisions.get(candidate.id)
    found = standing(made, HumanDecision.subject_of(candidate.instruction, candidate.response)) if made else []
    if not found:
        return candidate
    decided, last = replace(candidate, decisions=tuple(found)), found[-1]
    if last.verdict is HumanVerdict.DROP:
        if candidate.state is not State.ACCEPTED:
            return decided
        reason = f"{last.reviewer} dropped it"
        return replace(decided, state=State.REJECTED, rejected_at=RejectedAt.PERSON, reason=reason)
    if candidate.state not in (State.ACCEPTED, *_KEPT_FROM):
        return decided
    if last.verdict is HumanVerdict.EDIT:
        decided = replace(decided, instruction=last.instruction, response=last.response)
    elif candidate.state is State.ACCEPTED or why_not_kept(candidate.response, candidate.rejected_at):
        return decided
    how = "edited" if last.verdict is HumanVerdict.EDIT else "kept"
    return replace(decided, state=State.ACCEPTED, rejected_at=None, reason=f"{last.reviewer} {how} it")


def decided_row(row: Mapping[str, Any], decisions: Decisions) -> dict[str, Any]:
    """Return a row of a lineage as people decided since it was written.

    Args:
        row: as `read_lineage` gives it.
        decisions: of people, by candidate.

    Returns:
        The row with state, reason, texts and decisions as they stand, and `before`: those of its old values that are
        others now. The row as it is where no decision about its texts stands.
    """
    known = {name: row[name] for name in ("round", "index", "domain", "reason", "instruction", "response")}
    rejected_at = RejectedAt(row["rejected_at"]) if row["rejected_at"] else None
    candidate = Candidate(id=row["candidate_id"], state=State(row["state"]), rejected_at=rejected_at, **known)
    decided = apply_decisions(candidate, decisions)
    if decided is candidate:
        return {**row}
    stands = {name: getattr(decided, name) for name in ("state", "reason", "instruction", "response")}
    return {
        **row,
        **stands,
        "rejected_at": decided.rejected_at or "",
        "decisions": [asdict(decision) for decision in decided.decisions],
        "before": {name: row[name] for name, value in stands.items() if row[name] != value},
    }
