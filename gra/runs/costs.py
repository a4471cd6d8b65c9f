"""Compute what the training rows of an arm cost, in tokens x billions of parameters.

The unit is proportional to the work of the models, so it compares arms whose models differ in size. An answer counts
for every arm that used it, also where another arm paid for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from gra.core.run_folder import RunFolder
from gra.core.types import Candidate
from gra.core.vocabulary import CallPurpose, RejectedAt, WorkKind
from gra.data.export import may_be_unreviewed
from gra.data.lineage import iter_candidates
from gra.models.entries import entry_of

UNIT = "tokens x billions of parameters"


def cost_of_rows(folder: Path, rows: int, *, reviewed: bool) -> dict[str, Any] | str:
    """Return what some rows of an arm cost: their share of the work on candidates, and all that was prepared.

    Rows without review cost what it takes to write them and to check their instructions. No reviewer is measured for
    them. The ledger has checks of instructions and reviews of responses under one role. So the tokens of a check are
    taken from candidates that were checked and not reviewed.

    Args:
        folder: of the arm's synthesis.
        rows: how many of its rows are used.
        reviewed: whether they are accepted rows; otherwise unreviewed ones.

    Returns:
        `unit`, `generation`, `review`, `preparation` (control items and seeds), `total`; or why it is not known.
    """
    facts = RunFolder(folder).manifest().get("synthesis", {})
    used = facts.get("used")
    if used is None:
        return "its synthesis was made by a release that did not record which answers it used"
    sizes = {part["model"]: _billions(part["model"], facts) for part in used}
    if unknown := [name for name, size in sizes.items() if size is None]:
        return f"the number of parameters of {', '.join(unknown)} is not known"
    work: dict[str, float] = defaultdict(float)
    for part in used:
        count = part.get("prompt_tokens", 0) + part.get("completion_tokens", 0)
        work[_kind(part)] += count * (sizes[part["model"]] or 0.0)
    if reviewed:
        share = rows / max(1, facts["states"]["accepted"])
        found = {"generation": share * (work["generation"] + work["revision"]), "review": share * work["review"]}
        found["preparation"] = work["preparing generation"] + work["preparing review"]
    else:
        members = {name: sizes.get(member["model"]) for name, member in facts.get("members", {}).items()}
        made, checks = _unreviewed(iter_candidates(folder / "lineage.parquet"), members)
        if checks is None:
            return "every checked candidate was reviewed, so the ledger does not show what checks of instructions cost"
        share = rows / max(1, made)
        found = {"generation": share * work["generation"], "review": share * checks}
        found["preparation"] = work["preparing generation"]
    return {"unit": UNIT, **found, "total": sum(found.values())}


def _kind(part: Mapping[str, Any]) -> str:
    """Return what some calls were for."""
    role, work = part["role"], part["work"]
    if role == CallPurpose.REVISER:
        return "revision"  # unreviewed rows are first versions
    kind = "generation" if role in set(CallPurpose) and CallPurpose(role).generates else "review"
    prepares = work not in set(WorkKind) or WorkKind(work).prepares
    return f"preparing {kind}" if prepares else kind


def _billions(model: str, facts: Mapping[str, Any]) -> float | None:
    """Return a model's parameters in billions."""
    entry = entry_of(model)
    count = facts.get("models", {}).get(model, {}).get("parameters") or (entry and entry.parameters)
    return count / 1e9 if count else None


def _unreviewed(candidates: Iterable[Candidate], sizes: Mapping[str, float | None]) -> tuple[int, float | None]:
    """Return how many candidates may be unreviewed rows, and what the checks of all instructions cost.

    That cost is None where no candidate was checked without being reviewed.

    Args:
        candidates: all candidates of the arm.
        sizes: the parameters of each member's model, in billions.
    """
    made = checked = alone = 0
    cost = 0.0
    for candidate in candidates:
        made += may_be_unreviewed(candidate)
        asked = [size for check in candidate.checks if check.values and (size := sizes.get(check.reviewer))]
        checked += bool(asked)
        only_checked = candidate.rejected_at in (RejectedAt.INSTRUCTION_CHECK, RejectedAt.VERIFIER)
        if asked and only_checked and not candidate.reviews and (usage := candidate.usage.get(CallPurpose.REVIEWER)):
            alone += 1
            cost += (usage.prompt_tokens + usage.completion_tokens) * fmean(asked)
    if checked and not alone:
        return made, None
    return made, checked * cost / alone if checked else 0.0
