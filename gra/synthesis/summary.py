"""Summarize a finished arm: its section of the manifest and the facts of its dataset card."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from gra.config.synthesis import SynthesisRecipe
from gra.core.types import Candidate, State
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.engines.broker import Broker
from gra.models.int8 import shown_name
from gra.serving.models import ModelRegistry
from gra.synthesis.best_of_n import taken_number, versions_of
from gra.synthesis.call_names import read_name
from gra.synthesis.committee.verifiers import VerifierCounts
from gra.synthesis.format_constraints import is_repaired
from gra.synthesis.funnel import CLEAN, PROGRAMS, STEPS, plain_reason, steps
from gra.synthesis.job import Job
from gra.synthesis.prompts import digests, folder_digests


class CandidateCounts:
    """Count what a manifest says of candidates, one by one: there may be a million."""

    def __init__(self, recipe: SynthesisRecipe | None = None) -> None:
        """Begin to count; a recipe that repairs forms has repaired responses counted too."""
        self._written = recipe.best_of if recipe is not None and recipe.format_constraints.repair else None
        self._states: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._verifiers = VerifierCounts()
        self._means = array("d")
        self._contamination: Counter[str] = Counter()  # verdicts on candidates compared with a suite
        self._tasks: Counter[str] = Counter()  # candidates that repeat an item, by task
        self._unanswered = 0
        self._repaired: Counter[str] = Counter()  # candidates with a response whose form a program repaired
        self._again: Counter[str] = Counter()  # candidates whose author was asked for another response
        self.adjudicators: set[str] = set()  # members that ruled on a dispute

    def add(self, candidate: Candidate) -> None:
        """Count one more candidate."""
        c = candidate
        self._states[c.state] += 1
        self._reasons[plain_reason(c)] += 1
        self._verifiers.add(c)
        self._unanswered += c.failed_by is FailureCause.INFRASTRUCTURE
        if c.disputed or any(other.ruling for other in c.alternatives):
            self.adjudicators.add(c.adjudicator)
        if c.mean is not None:
            self._means.append(c.mean)
        if c.contamination is not None:
            self._contamination[c.contamination.verdict] += 1
            self._tasks[c.contamination.task] += c.state is State.CONTAMINATED
        self._steps.update(steps(c))
        if self._written is not None and is_repaired(c, self._written):
            self._repaired.update(("taken", *(["accepted"] if c.state is State.ACCEPTED else [])))
        revised = {number for number, version in versions_of(c).items() if version == "revised"}
        taken = taken_number(c) in revised
        self._again.update(
            {
                "asked_shorter": CallPurpose.SHORTENER in c.usage,
                "revised": bool(revised),
                "revision_taken": taken,
                "revision_accepted": taken and c.state is State.ACCEPTED,
            }
        )

    def asked_again(self) -> dict[str, int]:
        """Return how many candidates were asked for a shorter or revised response, and whose revision was taken."""
        return dict(self._again)

    def repaired(self) -> dict[str, int]:
        """Return how many responses were taken in the form that a program gave them, and how many are accepted."""
        return {name: self._repaired[name] for name in ("taken", "accepted")}

    def contamination(self) -> dict[str, Any]:
        """Return how many accepted candidates are clean, suspect and contaminated, and the tasks that they repeat."""
        rows = {verdict: self._contamination[verdict] for verdict in ("clean", "suspect", "contaminated")}
        return {"rows": rows, "tasks": {task: n for task, n in sorted(self._tasks.items()) if n}}

    def facts(self) -> dict[str, Any]:
        """Return states, reasons, the funnel (candidates that reached each step), the mean score and verifiers."""
        reached = {step: self._steps[step] for step in STEPS}
        if not (verdicts := self._verifiers.summary()):
            del reached[PROGRAMS]
        if not self._contamination:
            del reached[CLEAN]
        return {
            "states": {state.value: self._states[state] for state in State},
            "reasons": dict(self._reasons),
            "unanswered": self._unanswered,
            "funnel": reached,
            "mean_score": float(np.mean(np.asarray(self._means))) if self._means else None,
            "programs": verdicts,
        }


def summarize(
    job: Job,
    registry: ModelRegistry,
    broker: Broker,
    candidates: Iterable[Candidate],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest's section: counts, tokens by purpose, models, reviewers.

    Args:
        job: the arm.
        registry: its models.
        broker: it answered the arm's calls.
        candidates: all candidates; they are read twice.
        facts: what else the section holds.
    """
    ledger = broker.ledger
    counts = CandidateCounts(job.recipe)
    for candidate in candidates:
        counts.add(candidate)
    return {
        "fingerprint": job.fingerprint(registry),
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        **counts.facts(),
        "tokens_by_role": ledger.paid("role"),
        "tokens_by_model": ledger.paid("model"),
        "used": used_tokens(broker, candidates),
        "faults": ledger.faults(),
        "models": {name: {**asdict(m), "path": m.path.name} for name, m in registry.models.items()},
        "missing_models": registry.missing,
        "prompts": digests() | _further_prompts(job),
        "seeds_sha256": job.seeds_sha256,
        **({"asked_again": counts.asked_again()} if job.recipe.revise or job.recipe.on_cutoff == "shorter" else {}),
        **({"repaired": counts.repaired()} if job.recipe.format_constraints.repair else {}),
        **({"contamination": job.decontaminator.to_json() | counts.contamination()} if job.decontaminator else {}),
        **facts,
        **_shown_reviewers(facts, counts.adjudicators),
    }


def _further_prompts(job: Job) -> dict[str, str]:
    """Return the digests of the prompts that only some recipes use, where this one does."""
    folders = job.recipe.prompt_folders
    return {f"{folder}/{name}": sha for folder in folders for name, sha in folder_digests(folder).items()}


def used_tokens(broker: Broker, candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
    """Return calls and tokens of all answers that the arm used, by kind of work, role and model.

    An answer that another arm paid for counts too. One that only an earlier recipe in the same folder used does not.
    Finished candidates are not asked again after a resume, so what is recorded of them counts.
    """
    keys = chain(broker.used, (key for candidate in candidates for key in candidate.calls))
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for name, role, model, *counts in broker.ledger.used(keys):
        work = read_name(name)
        kind = work.kind.value if work else ""
        part = found.setdefault((kind, role, model), Counter())
        part.update(dict(zip(("calls", "prompt_tokens", "completion_tokens", "cached_tokens"), counts, strict=True)))
    return [{"work": kind, "role": role, "model": model, **part} for (kind, role, model), part in found.items()]


def _shown_reviewers(facts: Mapping[str, Any], adjudicators: set[str]) -> dict[str, Any]:
    """Return the measurements of reviewers, and of members that adjudicated.

    Other adjudicators may have been measured for candidates beyond the end of a round, which depends on timing.
    """
    members = facts.get("members", {})
    measured = facts.get("reviewers", {})
    shown = {name: m for name, m in measured.items() if "reviewer" in members[name]["roles"] or name in adjudicators}
    return {"reviewers": shown} if measured else {}


def form_facts(recipe: SynthesisRecipe, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card shows of format constraints that a program added, and of responses that it repaired."""
    forms_repaired = content.get("repaired", {}).get("accepted", 0)
    return {"form_share": recipe.format_constraints.share, "forms_repaired": forms_repaired}


def card_facts(job: Job, registry: ModelRegistry, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the dataset card shows."""
    members = content.get("members", {})
    if not members and job.recipe.teacher is not None and (served := registry.served(job.recipe.teacher)):
        members = {"teacher": {"model": registry.models[served].name}}
    models = [
        {"member": member, "name": shown_name(m.name, m.weights),
         "identity": " + ".join(filter(None, (m.identity, facts.get("adapter")))), "licence": m.licence}
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
        **form_facts(job.recipe, content),
        "reviewers": reviewers,
        "committee_auc": content.get("committee_auc"),
        "programs": content["programs"],
        "prompts": content["prompts"],
    }
