"""What a run says of itself when it is done: the manifest's section and the facts of the dataset card."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from gra.core.types import Candidate, State
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.committee import verifiers as programs
from gra.synthesis.funnel import CLEAN, PROGRAMS, STEPS, plain_reason, steps
from gra.synthesis.job import Job
from gra.synthesis.prompts import digests


class CandidateCounts:
    """What a manifest says of candidates, added up one by one: there may be a million."""

    def __init__(self) -> None:
        self._states: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._programs = programs.VerifierCounts()
        self._means = array("d")
        self._verdicts: Counter[str] = Counter()  # on candidates that were held against a suite
        self._tasks: Counter[str] = Counter()  # of that suite, by the candidates that repeat an item
        self.judges: set[str] = set()  # who settled a dispute

    def add(self, candidate: Candidate) -> None:
        """Count one more candidate."""
        c = candidate
        self._states[c.state] += 1
        self._reasons[plain_reason(c)] += 1
        self._programs.add(c)
        if c.disputed or any(draft.ruling for draft in c.alternatives):
            self.judges.add(c.adjudicator)
        if c.mean is not None:
            self._means.append(c.mean)
        if c.contamination is not None:
            self._verdicts[c.contamination.verdict] += 1
            self._tasks[c.contamination.task] += c.state is State.CONTAMINATED
        self._steps.update(steps(c))

    def contamination(self) -> dict[str, Any]:
        """How many candidates that would be accepted are clean, suspect and contaminated, and by which tasks."""
        rows = {verdict: self._verdicts[verdict] for verdict in ("clean", "suspect", "contaminated")}
        return {"rows": rows, "tasks": {task: n for task, n in sorted(self._tasks.items()) if n}}

    def facts(self) -> dict[str, Any]:
        """States, reasons, the funnel (how many reached each step of the method), mean score, programs."""
        reached = {step: self._steps[step] for step in STEPS}
        if not (verdicts := self._programs.summary()):
            del reached[PROGRAMS]
        if not self._verdicts:
            del reached[CLEAN]
        return {
            "states": {state.value: self._states[state] for state in State},
            "reasons": dict(self._reasons),
            "funnel": reached,
            "mean_score": float(np.mean(np.asarray(self._means))) if self._means else None,
            "programs": verdicts,
        }


def summarize(
    job: Job, registry: ModelRegistry, ledger: Ledger, candidates: Iterable[Candidate], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest's section: counts, tokens by role, models, reviewers."""
    tally = CandidateCounts()
    for candidate in candidates:
        tally.add(candidate)
    return {
        "fingerprint": job.fingerprint(registry),
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        **tally.facts(),
        "tokens_by_role": ledger.paid("role"),
        "tokens_by_model": ledger.paid("model"),
        "faults": ledger.faults(),
        "models": {name: {**asdict(m), "path": m.path.name} for name, m in registry.models.items()},
        "missing_models": registry.missing,
        "prompts": digests(),
        "seeds_sha256": job.seeds_sha256,
        **({"contamination": job.decontaminator.to_json() | tally.contamination()} if job.decontaminator else {}),
        **facts,
        **_shown_reviewers(facts, tally.judges),
    }


def _shown_reviewers(facts: Mapping[str, Any], judges: set[str]) -> dict[str, Any]:
    """Reviewers, and of those who only adjudicate the ones who did: others may have been measured for stories that
    nobody needed in the end, and which these are depends on timing."""
    members = facts.get("members", {})
    measured = facts.get("reviewers", {})
    shown = {name: m for name, m in measured.items() if "reviewer" in members[name]["roles"] or name in judges}
    return {"reviewers": shown} if measured else {}


def card_facts(job: Job, registry: ModelRegistry, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset card shows."""
    members = content.get("members", {})
    if not members and job.recipe.teacher is not None and (served := registry.served(job.recipe.teacher)):
        members = {"teacher": {"model": registry.models[served].name}}
    models = [
        {"member": member, "name": m.name, "identity": " + ".join(filter(None, (m.identity, facts.get("adapter")))),
         "licence": m.licence}
        for member, facts in members.items()
        for m in registry.models.values()
        if m.name == facts["model"]
    ]  # fmt: skip
    reviewers = [
        {"member": name, "ask": content["members"][name]["ask"], "auc": r["auc"]}
        for name, r in content.get("reviewers", {}).items()
    ]
    return {
        **{key: content[key] for key in ("committee", "contamination") if key in content},
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
