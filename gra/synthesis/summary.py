"""What a run says of itself when it is done: the manifest's section and the facts of the dataset card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gra.core.ledger import Ledger
from gra.core.manifest import file_digest
from gra.core.records import Candidate, State
from gra.synthesis.programs import past_programs
from gra.synthesis.programs import summary as verdicts
from gra.synthesis.prompts import digests
from gra.synthesis.workbench import Job
from gra.synthesis.workshop import Workshop


def summarize(
    job: Job, workshop: Workshop, ledger: Ledger, candidates: Sequence[Candidate], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest's section: counts, tokens by role, models, reviewers."""
    means = [c.mean for c in candidates if c.mean is not None]
    return {
        "fingerprint": job.fingerprint(workshop),
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        "states": {state.value: sum(c.state is state for c in candidates) for state in State},
        "reasons": dict(Counter(c.reason.removesuffix(f" {c.neighbour}" if c.neighbour else "") for c in candidates)),
        "funnel": funnel(candidates),
        "mean_score": float(np.mean(means)) if means else None,
        "tokens_by_role": ledger.paid("role"),
        "tokens_by_model": ledger.paid("model"),
        "faults": ledger.faults(),
        "models": {name: {**asdict(m), "path": m.path.name} for name, m in workshop.models.items()},
        "missing_models": workshop.missing,
        "programs": verdicts(candidates),
        "prompts": digests(),
        "seeds_sha256": file_digest(job.seed_file()),
        **facts,
    }


def funnel(candidates: Sequence[Candidate]) -> dict[str, int]:
    """How many candidates reached each step of the method."""
    return {
        "candidates": len(candidates),
        "instruction written": sum(bool(c.instruction) for c in candidates),
        "instruction passed": sum(bool(c.response) for c in candidates),
        **past_programs(candidates),
        "scored": sum(c.mean is not None for c in candidates),
        "mean passed": sum(c.mean is not None and (c.disputed or c.state is not State.REJECTED) for c in candidates),
        "disputed": sum(c.disputed for c in candidates),
        "kept by adjudicator": sum(c.ruling is not None and c.ruling.kept for c in candidates),
        "accepted": sum(c.state is State.ACCEPTED for c in candidates),
    }


def card_facts(job: Job, workshop: Workshop, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset card shows."""
    members = content.get("members", {})
    if not members and job.recipe.teacher is not None and (served := workshop.served(job.recipe.teacher)):
        members = {"teacher": {"model": workshop.models[served].name}}
    models = [
        {"member": member, "name": m.name, "identity": " + ".join(filter(None, (m.identity, facts.get("adapter")))),
         "licence": m.licence}
        for member, facts in members.items()
        for m in workshop.models.values()
        if m.name == facts["model"]
    ]  # fmt: skip
    reviewers = [
        {"member": name, "ask": content["members"][name]["ask"], "auc": r["auc"]}
        for name, r in content.get("reviewers", {}).items()
    ]
    return {
        **({"committee": content["committee"]} if "committee" in content else {}),
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        "states": content["states"],
        "models": models,
        "shared_weights": content.get("shared_weights", {}),
        "seeds": job.recipe.seeds.source,
        "reviewers": reviewers,
        "committee_auc": content.get("committee_auc"),
        "programs": content["programs"],
        "prompts": content["prompts"],
    }
