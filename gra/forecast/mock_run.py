"""A rehearsal: real stories and real prompts on stand-in models, so that a recipe is forecast before anything is asked.

What is counted is exact where the recipe decides it (which questions are asked of whom) and assumed where only models
can know: how long answers are, how many candidates pass, how fast tokens come. The assumptions are the constants
below; a forecast from a rehearsal says that it stands on them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gra.config.committee import MemberConfig
from gra.config.synthesis import FormatConstraintsConfig, SynthesisRecipe, committee_of, members_of
from gra.core.hardware import gpu_memory_gb
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.types import CHECKS, DIMENSIONS, Seed
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Json, Likelihood, ModelId, Text
from gra.forecast.observed_costs import COLUMNS, ObservedCosts, read_evidence
from gra.ledger.ledger import Ledger
from gra.models.entries import find_entry
from gra.serving.models import ModelRegistry
from gra.synthesis.arms.from_seeds import answer_seeds
from gra.synthesis.arms.in_rounds import enrich_all, name_domains
from gra.synthesis.candidate import CandidateSettings, eligible, generate_candidate, refine_seed
from gra.synthesis.committee.calibration import make_control_items, measure_reviewer
from gra.synthesis.committee.verifiers import make_verifiers
from gra.synthesis.context import SynthesisContext
from gra.synthesis.job import Job
from gra.synthesis.setup import assemble_committee
from gra.tracking import NullTracker

_THINGS = 24  # candidates that are told, seeds that are answered or enriched
_PAIRS = 4
_GOOD = 0.6  # responses that reviewers think well of
_CHECKED = 0.97  # of each check that an instruction passes
_DISSENT = 0.15  # reviews far from the others
_ANSWER_TOKENS = 80  # the prompt asks for at most 60 words
_EXERCISE_WORDS = 45
_LETTERS_A_TOKEN = 4
# Arithmetic a second that serving reaches, and how many times as long a written token takes as one that is read.
_CPU_FLOPS_A_CORE, _CPU_WRITING = 2e11, 2.0
_GPU_FLOPS, _GPU_WRITING = 1.2e14, 4.0
_UNKNOWN_PARAMETERS = 7e9
_SERVED_WRITTEN_A_CALL = 30.0  # tokens a second of one call to a server
_MARK = re.compile(r"grade(\d+)e")
_WORD = "word "


def rehearse(job: Job, seeds: Sequence[Seed]) -> ObservedCosts:
    """Evidence about a recipe that nobody was asked for."""
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        asyncio.run(_tell(replace(job, decontaminator=None), seeds, ledger))  # it asks nobody and costs next to nothing
        found = read_evidence(ledger, job.recipe.name, "a rehearsal with stand-in models")
    return replace(_timed(found, job.recipe), sure=False)


class _StandIns(ModelRegistry):
    """Every model is there, and nowhere."""

    def served(self, member: MemberConfig) -> str | None:
        return member.model

    def model_id(self, name: str, adapter: str | None = None) -> ModelId:
        return ModelId(name, name, "rehearsal", adapter or "")


async def _tell(job: Job, seeds: Sequence[Seed], path: Path) -> None:
    recipe = job.recipe
    names = {member.model for member in members_of(recipe)}
    script = _Script(
        {f"grade{i}e": 10.0 if i < 100 * _GOOD else 1.0 for i in range(100)},
        2.5 * recipe.review.dispute_std,  # one such review of three is a dispute, and does not fail the mean
    )
    ledger = Ledger(path, recipe.name)
    try:
        pool = EnginePool({name: MockEngine(name, script) for name in sorted(names)}, float("inf"))
        await pool.swapper.warm()
        registry, view = _StandIns(recipe.engine), View(quiet=True)
        registry.prepared.set()
        context = SynthesisContext(job, registry, Broker(ledger, pool), ledger, view, NullTracker())
        if recipe.arm == "distilled" and recipe.teacher is not None and recipe.teacher.writes == "answers":
            await answer_seeds(context, seeds[:_THINGS])
        elif names:
            await _stories(context, seeds)
    finally:
        ledger.close()


async def _stories(context: SynthesisContext, seeds: Sequence[Seed]) -> None:
    """The arm's steps on a few of everything; probes are answered, and what they would teach is left out."""
    recipe, members = assemble_committee(context.registry, context.recipe, context.view)
    named = await name_domains(context, members, _few(seeds))
    committee = committee_of(recipe)
    if recipe.review.control_items and committee is not None and committee.reviewers:
        control_items = make_control_items(named, min(_PAIRS, recipe.review.control_items), recipe.seed)
        judges = [m for m in members.values() if {"reviewer", "adjudicator"} & set(m.roles)]
        await at_once(*(measure_reviewer(context.broker, judge, control_items) for judge in judges))
    # Of what stand-ins write there is nothing to run, and they keep no form: every such answer would be rejected.
    programs = make_verifiers([program for program in recipe.review.verifiers if program.kind != "tests"], members)
    settings = CandidateSettings(
        recipe.model_copy(update={"format_constraints": FormatConstraintsConfig()}), members, verifiers=programs
    )
    stories = []
    if recipe.arm in ("refined", "integrated"):
        stories += [refine_seed(settings, context.broker, i, seed) for i, seed in enumerate(named[:_THINGS])]
    if recipe.arm != "refined":
        pool: dict[str, list[Seed]] = {}
        for seed in await enrich_all(context, members, named):
            pool.setdefault(seed.domain, []).append(seed)
        parents = eligible(pool)
        if any(len(parents.get(domain, ())) >= 2 for domain in recipe.domains):
            stories += [generate_candidate(settings, context.broker, parents, 1, i) for i in range(_THINGS)]
    for candidate in await at_once(*stories):
        await context.ledger.conclude(candidate.id, candidate.to_json())


def _few(seeds: Sequence[Seed]) -> list[Seed]:
    """Enough seeds for two parents of every domain, from all over the file."""
    step = max(1, len(seeds) // (4 * _THINGS))
    return list(seeds[::step])


class _Script:
    """Answers of ordinary length; what an answer is worth stands in it, so that all reviewers see the same."""

    def __init__(self, worth: Mapping[str, float], dissent: float) -> None:
        self._worth = worth
        self._dissent = dissent

    def __call__(self, call: Call) -> Completion:
        luck = random.Random(zlib.crc32(repr((call.messages, call.sample, call.member)).encode()))
        prompt = "\n".join(text for _, text in call.messages)
        read = len(prompt) // _LETTERS_A_TOKEN
        match call.output:
            case Text():
                text = self._prose(call, luck)
                return Completion(text, "stop", read, len(text) // _LETTERS_A_TOKEN)
            case Choice(labels):
                return Completion(labels[0], "length", read, 1, scores=self._opinion(labels, prompt, call.member, luck))
            case Likelihood(answer):
                read += len(answer) // _LETTERS_A_TOKEN
                given = 0.0 if prompt.endswith("Write something.") else self._grade(answer, call.member)
                return Completion("", "stop", read, 0, scores={"logprob": given - 50.0, "tokens": 9.0})
            case Json(schema):
                text = json.dumps(self._fields(schema["properties"], prompt, call.member, luck))
                return Completion(text, "stop", read, len(text) // _LETTERS_A_TOKEN)

    def _prose(self, call: Call, luck: random.Random) -> str:
        tokens = min(0.9 * call.sampling.max_tokens, luck.lognormvariate(0.0, 0.4) * _ANSWER_TOKENS)
        return f"{luck.choice(list(self._worth))} {_WORD * int(tokens * _LETTERS_A_TOKEN / len(_WORD))}"

    def _grade(self, text: str, member: str) -> float:
        """What a member thinks of the answer in a text, the same whenever it is asked."""
        if not (marks := _MARK.findall(text)):
            return 5.0
        grade = self._worth[f"grade{marks[-1]}e"]
        dissents = random.Random(f"{member} {marks[-1]}").random() < _DISSENT
        return max(0.0, grade - self._dissent) if dissents else grade

    def _opinion(self, labels: Sequence[str], prompt: str, member: str, luck: random.Random) -> dict[str, float]:
        if set(labels) == {"yes", "no"}:
            yes = self._grade(prompt, member) / 10 if _MARK.search(prompt) else float(luck.random() < _CHECKED)
            return {"yes": yes + 1e-6, "no": 1.0 - yes + 1e-6}
        digit = str(round(0.9 * self._grade(prompt, member)))
        return {label: 1.0 if label == digit else 1e-6 for label in labels}

    def _fields(self, properties: Mapping[str, Any], prompt: str, member: str, luck: random.Random) -> dict[str, Any]:
        grade = self._grade(prompt, member)
        found: dict[str, Any] = {}
        for name, schema in properties.items():
            if "enum" in schema:
                found[name] = luck.choice(schema["enum"])
            elif name == "keywords":
                found[name] = [f"keyword {luck.randrange(1000)}" for _ in range(3)]
            elif name == "exercise":
                found[name] = f"Exercise {luck.randrange(10**9)}: {_WORD * luck.randint(15, 2 * _EXERCISE_WORDS - 15)}"
            elif name in CHECKS:
                found[name] = luck.random() < _CHECKED
            elif name in DIMENSIONS:
                found[name] = round(grade)
            else:
                found[name] = _WORD * 20
        return found


def _timed(evidence: ObservedCosts, recipe: SynthesisRecipe) -> ObservedCosts:
    """The evidence with assumed times in place of those of the stand-ins, which answer at once."""
    gpu = gpu_memory_gb() is not None
    flops = _GPU_FLOPS if gpu else _CPU_FLOPS_A_CORE * len(os.sched_getaffinity(0))
    writing = _GPU_WRITING if gpu else _CPU_WRITING
    places = {member.model: member.engine or recipe.engine for member in members_of(recipe)}
    served = {name: place for name, place in places.items() if place.kind == "openai"}
    read, written, seconds = (COLUMNS.index(name) for name in ("read", "written", "seconds"))
    for place, (_, model) in enumerate(evidence.keys):
        if model in served:
            a_read, a_written = 0.0, 1 / (_SERVED_WRITTEN_A_CALL * served[model].concurrency)
        else:
            entry = find_entry(model.removeprefix("catalog:").partition("@")[0])
            a_read = 2 * ((entry and entry.parameters) or _UNKNOWN_PARAMETERS) / flops
            a_written = writing * a_read
        for costs in evidence.units.values():
            costs[:, place, seconds] = costs[:, place, read] * a_read + costs[:, place, written] * a_written
            costs[:, place, seconds + 1] = costs[:, place, seconds] / 2
    return evidence
