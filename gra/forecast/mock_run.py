"""Run a recipe's steps and prompts on stub models, so that its cost is forecast before any model is asked.

Counts are exact where the recipe decides them, such as which member is asked what. Lengths of answers, speeds and the
share of candidates that pass are assumed: they are the constants below. A forecast from a mock run says so.
"""

from __future__ import annotations

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
from gra.config.review import RUN_CODE, FormatConstraintsConfig
from gra.config.synthesis import SynthesisRecipe, members_of, reviews_responses
from gra.core.hardware import gpu_memory_gb, width
from gra.core.processes.background import run
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.types import CHECKS, DIMENSIONS, FAULT_CHECKS, LIKELY_CHECK, Seed
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Json, Likelihood, ModelId, Reward, Text
from gra.forecast.observed_costs import COLUMNS, ObservedCosts, read_costs
from gra.ledger.ledger import Ledger
from gra.models.entries import entry_of
from gra.serving.models import ModelRegistry
from gra.synthesis.arms import find_runner
from gra.synthesis.candidate import CandidateSettings, generate_candidate, refine_seed
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.verifiers import make_verifiers
from gra.synthesis.context import SynthesisContext
from gra.synthesis.job import Job
from gra.synthesis.measuring.calibration import ask_control_items, make_control_items, measure_reviewer
from gra.synthesis.measuring.controls import ControlItem, planned_controls
from gra.synthesis.measuring.natural import drawn_questions, natural_controls
from gra.synthesis.measuring.panel import NATURAL, items_for
from gra.synthesis.prompts import render
from gra.synthesis.rounds.parents import eligible
from gra.synthesis.rounds.write_samples import enrich_all, name_domains
from gra.synthesis.setup import assemble_committee
from gra.tracking import NullTracker

_ITEMS = 24  # candidates generated, seeds answered or enriched
_CONTROL_ITEMS = 4
_GOOD = 0.6  # the share of responses that reviewers score high
_CHECKED = 0.97  # the probability that an instruction passes one check
_DISSENT = 0.15  # the share of reviews far from the others
_NAMES = 2  # that a text has
_ANSWER_TOKENS = 80  # the prompt asks for at most 60 words
_EXERCISE_WORDS = 45
_LETTERS_A_TOKEN = 4
# FLOP/s that serving reaches, and the ratio of the times of a written and a read token.
_CPU_FLOPS_A_CORE, _CPU_WRITING = 2e11, 2.0
_FLOAT32_FLOPS_A_CORE = 5e10  # of a CPU that computes in float32 (docs/benchmarks.md)
_GPU_FLOPS, _GPU_WRITING = 1.2e14, 4.0
_UNKNOWN_PARAMETERS = 7e9
_SERVED_WRITTEN_A_CALL = 30.0  # tokens a second of one call to a server
_MARK = re.compile(r"grade(\d+)e")
_WORD = "word "
_NEXT_REQUEST = render("examples/instruction", keywords=["\0"]).partition("\0")[0]  # how an instruction is asked for


def mock_run(job: Job, seeds: Sequence[Seed]) -> ObservedCosts:
    """Return assumed costs of a recipe, without asking a model."""
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        run(_run(replace(job, decontaminator=None), seeds, ledger))  # decontamination asks no model
        found = read_costs(ledger, job.recipe.name, "a mock run on stub models")
    return replace(_timed(found, job.recipe), measured=False)


class _StubRegistry(ModelRegistry):
    """Stub model registry for cost forecasts: resolves every name without downloading weights."""

    def served(self, member: MemberConfig) -> str | None:
        return member.model

    def model_id(self, name: str, adapter: str | None = None) -> ModelId:
        return ModelId(name, name, "mock run", adapter or "")

    def template_tokens(self) -> frozenset[str]:
        return frozenset()


async def _run(job: Job, seeds: Sequence[Seed], path: Path) -> None:
    recipe = job.recipe
    names = {member.model for member in members_of(recipe)}
    script = _Script(
        {f"grade{i}e": 10.0 if i < 100 * _GOOD else 1.0 for i in range(100)},
        2.5 * recipe.review.dispute_std,  # one such review of three makes a dispute, and the mean still passes
    )
    ledger = Ledger(path, recipe.name)
    try:
        pool = EnginePool({name: MockEngine(name, script) for name in sorted(names)}, float("inf"))
        await pool.swapper.warm()
        registry, view = _StubRegistry(recipe.engine), View(quiet=True)
        registry.candidates_began.set()
        context = SynthesisContext(job, registry, Broker(ledger, pool), ledger, view, NullTracker())
        if recipe.annotate is not None:
            await _annotate(context, seeds)
        elif recipe.arm_spec.prepares_committee:
            await _run_committee(context, seeds)
        elif names:
            await find_runner(recipe.arm_spec)(context, seeds, _ITEMS)
    finally:
        ledger.close()


async def _annotate(context: SynthesisContext, seeds: Sequence[Seed]) -> None:
    """Label a few texts; examples are drawn, so that no embedder is needed, and few control texts are asked."""
    job, config = context.job, context.recipe.annotate
    assert config is not None
    changes = {"choose": "random", "control": min(config.control, _CONTROL_ITEMS)}
    few = context.recipe.model_copy(update={"annotate": config.model_copy(update=changes)})
    context = replace(context, job=replace(job, loaded=replace(job.loaded, recipe=few)))
    await find_runner(few.arm_spec)(context, seeds, _ITEMS)


async def _run_committee(context: SynthesisContext, seeds: Sequence[Seed]) -> None:
    """Run the steps of a committee's arm on a few seeds and candidates; measurements of reviewers are not applied."""
    spec = context.recipe.arm_spec
    recipe, members = assemble_committee(context.registry, context.recipe, context.view)
    named = await name_domains(context, members, _few(seeds))
    if recipe.review.control_items and reviews_responses(recipe):
        await _measure(context, recipe, members, named)
    # Stub answers hold no program and keep no format constraint: tests and constraints would reject every one.
    without_code = [config for config in recipe.review.verifiers if config.kind not in RUN_CODE]
    verifiers = make_verifiers(without_code, members)
    # Stub answers never agree, and have lengths of their own.
    guided = recipe.self_guide and recipe.self_guide.model_copy(update={"least_share": 1e-9, "output_length": False})
    changes = {"format_constraints": FormatConstraintsConfig(), "self_guide": guided}
    # How likely stub texts are means nothing, and no measurement sets a threshold.
    lenient = {name: {LIKELY_CHECK: 0.0} for name in members}
    changed = recipe.model_copy(update=changes)
    settings = CandidateSettings(changed, members, thresholds=lenient, verifiers=verifiers)
    candidates = []
    if spec.keeps_seed_instructions:
        candidates += [refine_seed(settings, context.broker, i, seed) for i, seed in enumerate(named[:_ITEMS])]
    if spec.writes_rounds:
        pool: dict[str, list[Seed]] = {}
        for seed in await enrich_all(context, members, named):
            pool.setdefault(seed.domain, []).append(seed)
        parents = eligible(pool, recipe)
        if any(len(parents.get(domain, ())) >= 2 for domain in recipe.domains):
            candidates += [generate_candidate(settings, context.broker, parents, 1, i) for i in range(_ITEMS)]
    for candidate in await at_once(*candidates):
        await context.ledger.conclude(candidate.id, candidate.to_json())


async def _measure(
    context: SynthesisContext, recipe: SynthesisRecipe, members: Mapping[str, Member], seeds: Sequence[Seed]
) -> None:
    """Have every reviewer judge a few control items of the recipe's kinds."""
    broker, count = context.broker, min(_CONTROL_ITEMS, recipe.review.control_items)
    reviewers = [m for m in members.values() if {"reviewer", "adjudicator"} & set(m.roles)]
    if not recipe.review.fits_panel:
        pairs = make_control_items(seeds, count, recipe.seed)
        await at_once(*(measure_reviewer(broker, reviewer, pairs) for reviewer in reviewers))
        return
    instructions_each = min(_CONTROL_ITEMS, recipe.review.control_instructions)
    few = recipe.review.model_copy(update={"control_items": count, "control_instructions": instructions_each})
    items, instructions = planned_controls(seeds, few, recipe.seed)
    if context.job.control_questions:
        everyone = recipe.committee is not None and recipe.committee.assignment == "competence"
        drawn = drawn_questions(context.job.control_questions, count, recipe.seed)
        natural = await natural_controls(broker, list(members.values()), drawn, everyone=everyone)
        items += natural.items
    written = [item for item in items if item.kind in NATURAL]

    def asked(member: Member) -> Sequence[ControlItem]:
        if "reviewer" not in member.roles:
            return written or items  # what calibrates an adjudicator
        return items_for(member, items, recipe.review.open_domains, natural=bool(context.job.control_questions))

    await at_once(*(ask_control_items(broker, member, asked(member), instructions) for member in reviewers))


def _few(seeds: Sequence[Seed]) -> list[Seed]:
    """Return enough seeds for two parents of every domain, spread over the file."""
    step = max(1, len(seeds) // (4 * _ITEMS))
    return list(seeds[::step])


class _Script:
    """Answer calls at ordinary lengths; each response holds its quality as a word, which all reviewers read."""

    def __init__(self, quality: Mapping[str, float], dissent: float) -> None:
        self._quality = quality
        self._dissent = dissent

    def __call__(self, call: Call) -> Completion:
        rand = random.Random(zlib.crc32(repr((call.messages, call.sample, call.member)).encode()))
        prompt = "\n".join(text for _, text in call.messages)
        read = len(prompt) // _LETTERS_A_TOKEN
        match call.output:
            case Text():
                text = self._prose(call, rand)
                return Completion(text, "stop", read, len(text) // _LETTERS_A_TOKEN)
            case Choice(labels):
                return Completion(labels[0], "length", read, 1, scores=self._opinion(labels, prompt, call.member, rand))
            case Likelihood(answer):
                read += len(answer) // _LETTERS_A_TOKEN
                given = 0.0 if prompt.endswith("Write something.") else self._grade(answer, call.member)
                return Completion("", "stop", read, 0, scores={"logprob": given - 50.0, "tokens": 9.0})
            case Reward(answer):
                read += len(answer) // _LETTERS_A_TOKEN
                return Completion("", "stop", read, 0, scores={"reward": self._grade(answer, call.member) - 5.0})
            case Json(schema):
                text = json.dumps(self._fields(schema["properties"], prompt, call.member, rand))
                return Completion(text, "stop", read, len(text) // _LETTERS_A_TOKEN)

    def _prose(self, call: Call, rand: random.Random) -> str:
        if call.messages[-1][1].startswith(_NEXT_REQUEST):
            return _exercise(rand)
        tokens = min(0.9 * call.sampling.max_tokens, rand.lognormvariate(0.0, 0.4) * _ANSWER_TOKENS)
        return f"{rand.choice(list(self._quality))} {_WORD * int(tokens * _LETTERS_A_TOKEN / len(_WORD))}"

    def _grade(self, text: str, member: str) -> float:
        """Return a member's score of the response in a text; the same question gives the same score."""
        if not (marks := _MARK.findall(text)):
            return 5.0
        grade = self._quality[f"grade{marks[-1]}e"]
        dissents = random.Random(f"{member} {marks[-1]}").random() < _DISSENT
        return max(0.0, grade - self._dissent) if dissents else grade

    def _opinion(self, labels: Sequence[str], prompt: str, member: str, rand: random.Random) -> dict[str, float]:
        if set(labels) == {"yes", "no"}:
            yes = self._grade(prompt, member) / 10 if _MARK.search(prompt) else float(rand.random() < _CHECKED)
            return {"yes": yes + 1e-6, "no": 1.0 - yes + 1e-6}
        digit = str(round(0.9 * self._grade(prompt, member)))
        return {label: 1.0 if label == digit else 1e-6 for label in labels}

    def _fields(self, properties: Mapping[str, Any], prompt: str, member: str, rand: random.Random) -> dict[str, Any]:
        grade = self._grade(prompt, member)
        found: dict[str, Any] = {}
        for name, schema in properties.items():
            if "enum" in schema:
                found[name] = rand.choice(schema["enum"])
            elif name == "entities":
                kinds = schema["items"]["properties"]["type"]["enum"]
                names = prompt.rpartition("</text>")[0].split()[-_NAMES:]
                found[name] = [
                    {"text": text, "type": rand.choice(kinds)} for text in rand.sample(names, min(_NAMES, len(names)))
                ]
            elif name == "keywords":
                found[name] = [f"keyword {rand.randrange(1000)}" for _ in range(3)]
            elif name == "exercise":
                found[name] = _exercise(rand)
            elif name in CHECKS:
                found[name] = rand.random() < _CHECKED
            elif name in FAULT_CHECKS:
                found[name] = rand.random() >= _CHECKED
            elif name in DIMENSIONS:
                found[name] = round(grade)
            else:
                found[name] = _WORD * 20
        return found


def _exercise(rand: random.Random) -> str:
    return f"Exercise {rand.randrange(10**9)}: {_WORD * rand.randint(15, 2 * _EXERCISE_WORDS - 15)}"


def _timed(observed: ObservedCosts, recipe: SynthesisRecipe) -> ObservedCosts:
    """Return the costs with assumed times, because stub models answer at once."""
    gpu = gpu_memory_gb() is not None
    core = _CPU_FLOPS_A_CORE if width("bfloat16", on_gpu=gpu) == 2 else _FLOAT32_FLOPS_A_CORE
    flops = _GPU_FLOPS if gpu else core * len(os.sched_getaffinity(0))
    writing = _GPU_WRITING if gpu else _CPU_WRITING
    places = {member.model: member.engine or recipe.engine for member in members_of(recipe)}
    served = {name: place for name, place in places.items() if place.kind == "openai"}
    read, written, seconds = (COLUMNS.index(name) for name in ("read", "written", "seconds"))
    for place, (_, model) in enumerate(observed.keys):
        if model in served:
            a_read, a_written = 0.0, 1 / (_SERVED_WRITTEN_A_CALL * served[model].concurrency)
        else:
            entry = entry_of(model)
            a_read = 2 * ((entry and entry.parameters) or _UNKNOWN_PARAMETERS) / flops
            a_written = writing * a_read
        for costs in observed.units.values():
            costs[:, place, seconds] = costs[:, place, read] * a_read + costs[:, place, written] * a_written
            costs[:, place, seconds + 1] = costs[:, place, seconds] / 2
    return observed
