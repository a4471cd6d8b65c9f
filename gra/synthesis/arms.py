"""The arms of a comparison through one code path: `vanilla` (seeds as they are), `distilled` (one teacher), `gra`.

`synthesize` is what `synthesize.py`, `gra synthesize` and `gra run` call. Every arm writes the same run
folder: ledger, lineage, dataset, manifest.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gra.core.console import View
from gra.core.errors import DataError, RecipeError
from gra.core.ledger import Ledger, Recorded
from gra.core.manifest import RunFolder, digest, file_digest
from gra.core.recipe import Loaded, find_file
from gra.core.records import Candidate, Seed, State
from gra.core.schema import Committee, SynthesisRecipe
from gra.core.tracking import Tracker, start_tracking
from gra.data.dedup import Embedder
from gra.data.export import export
from gra.data.seeds import load_seeds
from gra.engines.broker import Broker, EnginePool
from gra.models.catalog import resolve
from gra.synthesis.committee import Member, check_roles, make_member, shared_weights
from gra.synthesis.draw import draw
from gra.synthesis.generator import enrich, write_response
from gra.synthesis.notebook import Notebook, Unanswered
from gra.synthesis.probes import Measured, committee_auc, measure, plant
from gra.synthesis.programs import make_programs, past_programs, summary, versions
from gra.synthesis.prompts import digests
from gra.synthesis.rounds import Round, grow
from gra.synthesis.story import Setting
from gra.synthesis.workshop import Workshop

# Stories in flight per model: enough to keep the engines busy while stories wait for other models, and few enough
# that little is left over when a round is full.
_STORIES_PER_MODEL = 8


@dataclass(frozen=True)
class Job:
    """One arm to be made: its checked recipe and the folder it goes to."""

    loaded: Loaded[SynthesisRecipe]
    folder: RunFolder
    ledger: Path

    @property
    def recipe(self) -> SynthesisRecipe:
        """The checked recipe."""
        return self.loaded.recipe

    def seed_file(self) -> Path:
        """Where the recipe's seeds are."""
        return find_file(self.recipe.seeds.source, self.loaded.path)

    def fingerprint(self, workshop: Workshop, *without: str) -> str:
        """Changes whenever the dataset could: recipe (but for the sections in `without`), seeds, models, prompts."""
        recipe = self.recipe.model_dump(exclude={"tracking", "engine", *without})
        models = {name: asdict(workshop.model_id(name)) for name in sorted(workshop.models)}
        programs = versions(self.recipe.review.programs)
        return digest([recipe, file_digest(self.seed_file()), models, digests(), programs])


async def synthesize(
    job: Job, workshop: Workshop, pool: EnginePool, view: View, group: str | None = None
) -> dict[str, Any]:
    """Make one arm's dataset and return its section of the manifest.

    Raises:
        GraError: for wrong input, a spent disk, or an engine that is lost for good. What was answered is recorded.
    """
    recipe = job.recipe
    (job.folder / "recipe.resolved.yaml").write_text(job.loaded.show() + "\n", encoding="utf-8")
    seeds = load_seeds(job.seed_file(), recipe.domains, recipe.seeds.limit)
    ledger = Ledger(job.ledger, run=recipe.name)
    tracker = start_tracking(
        recipe.tracking,
        stage="synthesis",
        name=recipe.name,
        group=group,
        config=recipe.model_dump(),
        folder=job.folder.path,
    )
    begun = time.time()
    try:
        broker = Broker(
            ledger,
            pool,
            max_attempts=recipe.engine.max_attempts,
            call_timeout_s=recipe.engine.call_timeout_s,
            token_budget=recipe.budget.tokens,
        )
        arm = _Arm(job, workshop, broker, ledger, view, tracker)
        candidates, facts = await arm.make(seeds)
        content = _summary(job, workshop, ledger, candidates, facts) | {"seconds": round(time.time() - begun, 1)}
        files = export(job.folder.path, candidates, _card_facts(job, workshop, content))
        job.folder.record("synthesis", content, [*files, job.folder / "recipe.resolved.yaml"])
        tracker.summary({f"synthesis/{state}": count for state, count in content["states"].items()})
        tracker.artifact(job.folder / "dataset", f"{recipe.name}-dataset", "dataset")
    finally:
        tracker.finish()
        ledger.close()
    return content


class _Arm:
    """What making one arm needs at hand."""

    def __init__(
        self, job: Job, workshop: Workshop, broker: Broker, ledger: Ledger, view: View, tracker: Tracker
    ) -> None:
        self.job = job
        self.recipe = job.recipe
        self.workshop = workshop
        self.broker = broker
        self.ledger = ledger
        self.view = view
        self.tracker = tracker
        self.ended: Counter[str] = Counter()

    async def make(self, seeds: Sequence[Seed]) -> tuple[list[Candidate], dict[str, Any]]:
        """The arm's candidates in their final states, and what the report should know beside them."""
        match self.recipe.arm:
            case "vanilla":
                return [_from_seed(self.recipe, i, seed, seed.response) for i, seed in enumerate(seeds)], {}
            case "distilled":
                return await self._distilled(seeds), {}
            case "gra":
                return await self._gra(seeds)

    async def _distilled(self, seeds: Sequence[Seed]) -> list[Candidate]:
        """The teacher answers every seed instruction."""
        assert self.recipe.teacher is not None
        served = self.workshop.served(self.recipe.teacher)
        assert served is not None
        teacher = make_member("teacher", self.recipe.teacher, self.recipe.review, self.workshop.model_id(served))
        limit = asyncio.Semaphore(_STORIES_PER_MODEL * 2)
        scope = self.job.fingerprint(self.workshop, "budget")

        async def answer(index: int, seed: Seed) -> Candidate:
            name = f"{self.recipe.arm}-{seed.id}"
            if (recorded := self.ledger.story(name, scope)) is not None:
                return self._note(Candidate.from_json(recorded), len(seeds))
            async with limit:
                notebook = Notebook(self.broker, name)
                begun = _from_seed(self.recipe, index, seed, "")
                try:
                    response = await write_response(notebook, teacher, seed.instruction, role="teacher")
                    ended = replace(begun, response=response, generator=teacher.name)
                except Unanswered as gap:
                    ended = replace(begun, state=State.FAILED, reason=str(gap), generator=teacher.name)
                ended = replace(ended, usage=dict(notebook.usage), calls=tuple(notebook.calls))
                await self.ledger.conclude(name, ended.to_json(), scope)
                return self._note(ended, len(seeds))

        return list(await asyncio.gather(*(answer(i, seed) for i, seed in enumerate(seeds))))

    async def _gra(self, seeds: Sequence[Seed]) -> tuple[list[Candidate], dict[str, Any]]:
        """Measure the reviewers, enrich the seeds, then round after round."""
        recipe = self.recipe
        lone = [domain for domain in recipe.domains if sum(seed.domain == domain for seed in seeds) < 2]
        if len(lone) == len(recipe.domains):
            raise DataError(f"{self.job.seed_file()}: a candidate needs two parents, and no domain has two seeds")
        if lone:
            self.view.note(f"! no candidates for {', '.join(lone)}: a domain needs two seeds")
        committee, members = seat(self.workshop, recipe, self.view)
        recipe = recipe.model_copy(update={"committee": committee})
        measured, pooled = await asyncio.gather(self._measure(members, seeds), self._enrich_all(members, seeds))
        setting = Setting(
            recipe,
            members,
            {m.member: m.calibration for m in measured},
            {m.member: m.thresholds for m in measured},
            make_programs(recipe.review.programs, members),
            self.job.fingerprint(self.workshop, "rounds", "budget", "dedup"),
        )
        embedder = Embedder(resolve(recipe.dedup.embedder, accept_licences=recipe.accept_licences).path)
        pool = grow({domain: [] for domain in recipe.domains}, pooled)
        candidates: list[Candidate] = []
        stops = []
        for number in range(1, recipe.rounds.count + 1):
            self.ended.clear()
            in_flight = _STORIES_PER_MODEL * len(self.broker.pool.engines)
            this_round = Round(setting, self.broker, self.ledger, pool, embedder, number, in_flight)
            result = await this_round.run(lambda c: self._ended(c, recipe.rounds.accept))
            candidates += result.candidates
            stops.append(result.stopped)
            self.view.note(
                f"  round {number}: {len(result.accepted)} rows of {len(result.candidates)} ({result.stopped})"
            )
            if result.stopped == "budget":
                break
            if number < recipe.rounds.count:
                pool = grow(pool, await self._enrich_all(members, [_as_seed(c) for c in result.accepted]))
        facts = {
            "reviewers": {m.member: m.to_json() for m in measured},
            "committee_auc": committee_auc(measured) if measured else None,
            "shared_weights": shared_weights(members),
            "members": {
                m.name: {"model": m.model.name, "ask": m.ask, "roles": list(m.roles)} for m in members.values()
            },
            "stopped": stops,
            "programs": summary(candidates),
        }
        return candidates, facts

    async def _measure(self, members: Mapping[str, Member], seeds: Sequence[Seed]) -> list[Measured]:
        if not self.recipe.review.probes:
            return []
        planted = plant(seeds, self.recipe.review.probes, self.recipe.seed)
        judges = [m for m in members.values() if {"reviewer", "adjudicator"} & set(m.roles)]
        measured = list(await asyncio.gather(*(measure(self.broker, judge, planted) for judge in judges)))
        for m in measured:
            unanswered = f", {m.unanswered} answers unusable" if m.unanswered else ""
            self.view.note(f"  reviewer {m.member}: AUC {m.auc:.2f} on {len(planted)} planted pairs{unanswered}")
            self.tracker.summary({f"reviewers/{m.member}/auc": m.auc})
        return measured

    async def _enrich_all(self, members: Mapping[str, Member], samples: Sequence[Seed]) -> list[Seed]:
        """Keywords and summary for the samples that lack them, by a member drawn at random (paper: M_P)."""
        writers = [m for m in members.values() if "generator" in m.roles]

        async def one(sample: Seed) -> Seed:
            if sample.enriched:
                return sample
            member = draw(self.recipe.seed, sample.id, "enricher").choice(writers)
            try:
                return await enrich(Notebook(self.broker, f"enrich-{sample.id}"), member, sample)
            except Unanswered as gap:
                self.view.note(f"! {sample.id} has no metadata and will not be a parent: {gap}")
                return sample

        return list(await asyncio.gather(*(one(sample) for sample in samples)))

    def _note(self, candidate: Candidate, total: int) -> Candidate:
        self._ended(candidate, total)
        return candidate

    def _ended(self, candidate: Candidate, total: int) -> None:
        """Tell the person and the tracker that a candidate ended."""
        self.ended[candidate.state] += 1
        progress = self.broker.progress
        tokens = sum(u.completion_tokens for u in progress.usage.values())
        waiting = ", ".join(f"{name} {n}" for name, n in progress.in_flight.items() if n)
        detail = f"of {self.ended.total()} ended, {tokens:,} tokens" + (f" | in flight: {waiting}" if waiting else "")
        done = self.ended[State.ACCEPTED]
        self.view.progress(f"{self.recipe.name} accepted", min(done, total), total, detail)
        self.view.event("candidate", arm=self.recipe.name, id=candidate.id, state=candidate.state, tokens=tokens)
        self.tracker.log(
            {f"synthesis/{state}": count for state, count in self.ended.items()} | {"synthesis/tokens": tokens}
        )


def seat(workshop: Workshop, recipe: SynthesisRecipe, view: View) -> tuple[Committee, dict[str, Member]]:
    """The committee of the members whose models are here; fewer reviewers when there are fewer members.

    Raises:
        RecipeError: when a role cannot be filled any more.
    """
    committee = recipe.committee
    assert committee is not None
    served = {name: workshop.served(member) for name, member in committee.models.items()}
    present = {
        name: make_member(name, member, recipe.review, workshop.model_id(model))
        for name, member in committee.models.items()
        if (model := served[name]) is not None
    }
    if len(present) == len(committee.models):
        check_roles(present, committee.reviewers)
        return committee, present
    gone = ", ".join(name for name, model in served.items() if model is None)
    for reviewers in range(committee.reviewers, 0, -1):
        smaller = committee.model_copy(update={"reviewers": reviewers})
        if _feasible(present, smaller):
            view.note(f"! without {gone}: {len(present)} members, {reviewers} reviewers for each candidate")
            return smaller, present
    raise RecipeError(
        f"without {gone} the committee cannot fill all roles; make the models available or change `committee`"
    )


def _feasible(members: Mapping[str, Member], committee: Committee) -> bool:
    try:
        check_roles(members, committee.reviewers)
    except RecipeError:
        return False
    return True


def _from_seed(recipe: SynthesisRecipe, index: int, seed: Seed, response: str) -> Candidate:
    return Candidate(
        id=f"{recipe.arm}-{seed.id}",
        round=0,
        index=index,
        domain=seed.domain,
        state=State.ACCEPTED,
        reason="seed" if recipe.arm == "vanilla" else "teacher's answer",
        arm=recipe.arm,
        parents=(seed.id,),
        keywords=seed.keywords,
        instruction=seed.instruction,
        response=response,
    )


def _as_seed(candidate: Candidate) -> Seed:
    return Seed(candidate.id, candidate.domain, candidate.instruction, candidate.response, candidate.keywords, "")


def _summary(
    job: Job, workshop: Workshop, ledger: Ledger, candidates: Sequence[Candidate], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest's section: counts, tokens by role, models, reviewers."""
    answers = list(ledger.answers())
    means = [c.mean for c in candidates if c.mean is not None]
    return {
        "fingerprint": job.fingerprint(workshop),
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        "states": {state.value: sum(c.state is state for c in candidates) for state in State},
        "reasons": dict(
            Counter(c.reason.split(" r")[0] if c.state is State.DUPLICATE else c.reason for c in candidates)
        ),
        "funnel": funnel(candidates),
        "mean_score": float(np.mean(means)) if means else None,
        "tokens_by_role": _tokens(answers, "role"),
        "tokens_by_model": _tokens(answers, "model"),
        "faults": ledger.faults(),
        "models": {name: {**asdict(m), "path": m.path.name} for name, m in workshop.models.items()},
        "missing_models": workshop.missing,
        "prompts": digests(),
        **facts,
    }


def _tokens(answers: Sequence[Recorded], by: str) -> dict[str, dict[str, int]]:
    """Calls and tokens that were paid for, summed by role or by model."""
    sums: dict[str, dict[str, int]] = {}
    counted = ("prompt_tokens", "completion_tokens", "cached_tokens")
    for answer in answers:
        total = sums.setdefault(getattr(answer, by), dict.fromkeys(("calls", *counted), 0))
        total["calls"] += 1
        for name in counted:
            total[name] += getattr(answer, name)
    return sums


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


def _card_facts(job: Job, workshop: Workshop, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset card shows."""
    members = content.get("members", {})
    if job.recipe.teacher is not None and (served := workshop.served(job.recipe.teacher)):
        members = {"teacher": {"model": workshop.models[served].name}}
    models = [
        {"member": member, "name": m.name, "identity": m.identity, "licence": m.licence}
        for member, facts in members.items()
        for m in workshop.models.values()
        if m.name == facts["model"]
    ]
    reviewers = [
        {"member": name, "ask": content["members"][name]["ask"], "auc": r["auc"]}
        for name, r in content.get("reviewers", {}).items()
    ]
    return {
        "name": job.recipe.name,
        "arm": job.recipe.arm,
        "states": content["states"],
        "models": models,
        "shared_weights": content.get("shared_weights", {}),
        "seeds": job.recipe.seeds.source,
        "reviewers": reviewers,
        "committee_auc": content.get("committee_auc"),
        "programs": content.get("programs", {}),
        "prompts": content["prompts"],
    }
