"""Forecast what a recipe will cost: `gra plan RECIPE [--from RUN | --sample N]`.

A forecast uses the best costs that are known, in this order: a past run that is named; a sample, which is the run's own
first candidates, and which the run does not ask again; what the run has done so far; a mock run on stub models. Every
number comes with a range, and the text says where the costs were observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gra.config.arms import ArmSpec
from gra.config.experiment import ExperimentRecipe
from gra.config.loader import Loaded, load_recipe
from gra.config.plain_yaml import plain_yaml
from gra.config.synthesis import SynthesisRecipe, committee_of, members_of, reviews_responses
from gra.core.errors import DataError, RecipeError
from gra.core.files import read_regular
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import find_ledger, read_resolved_recipe
from gra.core.types import Seed, State
from gra.core.vocabulary import WorkKind
from gra.engines.types import BATCHES
from gra.evaluation.suite import suite_items
from gra.experiment import ExperimentPlan, arm_jobs, load_experiment
from gra.forecast.memory import Memory, memory_plan
from gra.forecast.mock_run import mock_run
from gra.forecast.observed_costs import COLUMNS, Floats, ObservedCosts, read_costs, runs_of
from gra.forecast.simulate import CostRange, Forecast, Work, forecast, summarize, together
from gra.forecast.stages import add, forecast_stages, scaled
from gra.ledger.budget import token_cost
from gra.ledger.reader import LedgerReader
from gra.sandbox.permission import Permission
from gra.synthesis.annotation.asking import LabelWork, plan_work
from gra.synthesis.call_names import read_name
from gra.synthesis.job import Job, candidates_in_flight
from gra.synthesis.measuring.calibration import make_control_items
from gra.synthesis.measuring.controls import planned_controls
from gra.synthesis.measuring.natural import drawn_questions
from gra.synthesis.measuring.preparation import prepared_items
from gra.synthesis.run import make_job, run_sample


@dataclass(frozen=True)
class ArmPlan:
    """One arm and its cost forecast; an arm that asks no model costs nothing."""

    recipe: SynthesisRecipe
    forecast: Forecast | None
    source: str

    @property
    def rows(self) -> int | None:
        """The rows of an arm that writes rounds; None where the seeds decide their number."""
        if self.forecast is None or not self.recipe.arm_spec.writes_rounds:
            return None
        return round(self.forecast.rows.point)

    def usd(self) -> CostRange:
        """Return what the arm's tokens cost by the recipe's prices."""
        if self.forecast is None:
            return CostRange(0.0, 0.0, 0.0)
        return summarize(self._cost(self.forecast.expected), self._costs())

    def caps(self) -> dict[str, float]:
        """Return how likely the recipe reaches its caps: the share of draws, by cap."""
        budget, found = self.recipe.budget, self.forecast
        if found is None:
            return {}
        hours = found.drawn[:, :, COLUMNS.index("seconds")].sum(axis=1) / 3600
        spent = {
            "tokens": found.drawn[:, :, [COLUMNS.index("read"), COLUMNS.index("written")]].sum(axis=(1, 2)),
            "gpu_hours": hours,
            "usd": self._costs() + hours * (self.recipe.prices.gpu_hour or 0.0),
        }
        caps = {key: getattr(budget, key) for key in spent}
        return {key: float(np.mean(spent[key] > cap)) for key, cap in caps.items() if cap is not None}

    def _costs(self) -> Floats:
        assert self.forecast is not None
        return np.array([self._cost(drawn) for drawn in self.forecast.drawn])

    def _cost(self, costs: Floats) -> float:
        assert self.forecast is not None
        models = [model for _, model in self.forecast.keys]
        return sum(token_cost(self.recipe.prices, model, *costs[i, 1:4].tolist()) for i, model in enumerate(models))


@dataclass(frozen=True)
class Planned:
    """The forecast of a recipe: each arm, the stages in seconds, and the memory."""

    name: str
    arms: Sequence[ArmPlan]
    total: Forecast | None
    stages: Mapping[str, CostRange]
    memory: Memory
    notes: Sequence[str] = field(default_factory=list)

    @property
    def seconds(self) -> CostRange:
        """The time of all stages that could be forecast."""
        return add(self.stages.values())

    @property
    def gpu_hours(self) -> CostRange:
        """GPU-hours of synthesis: from the start of the engines to the last answer."""
        held = add(self.stages[name] for name in ("engines", "synthesis") if name in self.stages)
        return scaled(held, self.memory.gpus / 3600)

    def usd(self) -> CostRange | None:
        """Return the cost in US dollars; None where the recipe has no prices."""
        priced = [arm for arm in self.arms if arm.recipe.prices.models or arm.recipe.prices.gpu_hour is not None]
        if not priced:
            return None
        hourly = max((arm.recipe.prices.gpu_hour or 0.0 for arm in priced), default=0.0)
        return add([*(arm.usd() for arm in priced), scaled(self.gpu_hours, hourly)])


def make_plan(
    recipe: Path | Loaded[Any],
    overrides: Sequence[str],
    runs: Path,
    past: Path | None,
    sample: int | None,
    permission: Permission | None = None,
) -> Planned:
    """Forecast a synthesis recipe or an experiment.

    Args:
        recipe: the recipe's file.
        overrides: `key=value` settings.
        runs: the folder of all run folders.
        past: a past run to take costs from.
        sample: how many first candidates to make and take costs from.
        permission: to run code that a model wrote; an experiment states it itself.

    Raises:
        RecipeError: when the recipe is wrong, or the past run asked none of its models.
        DataError: when the past run or the seeds cannot be read.
    """
    if past is not None and sample is not None:
        raise RecipeError("--from and --sample exclude each other; give one of them")
    if sample is not None and sample < 1:
        raise RecipeError(f"--sample takes a number of candidates, at least 1, not {sample}")
    if isinstance(recipe, Path):
        recipe = load_recipe(recipe, ExperimentRecipe if is_experiment(recipe) else SynthesisRecipe, overrides)
    whole = isinstance(recipe.recipe, ExperimentRecipe)
    experiment = load_experiment(recipe, overrides, runs) if whole else None
    folder, jobs = _jobs(recipe, runs, experiment, permission, create=sample is not None)
    duplicates = _sample(jobs, sample, folder) if sample is not None else {}
    memory = memory_plan([job.recipe for job in jobs])
    planned = [_arm(job, past, sample, duplicates.get(job.recipe.name, [])) for job in jobs]
    arms = [arm for arm, _ in planned]
    forecasts = [arm.forecast for arm in arms if arm.forecast is not None]
    keys = sorted({key for each in forecasts for key in each.keys})
    total = together([_on(each, keys) for each in forecasts]) if forecasts else None
    log = (past if past is not None and past.is_dir() else folder.path) / "log.jsonl"
    rows = {arm.recipe.name: arm.rows for arm in arms}
    stages, missing = forecast_stages(total, memory.gpus > 0, log, experiment, rows, past)
    notes = [note for _, found in planned for note in found] + missing
    name = jobs[0].recipe.name if experiment is None else experiment.recipe.name
    return Planned(name, arms, total, stages, memory, notes)


def _jobs(
    loaded: Loaded[SynthesisRecipe],
    runs: Path,
    experiment: ExperimentPlan | None,
    permission: Permission | None,
    *,
    create: bool,
) -> tuple[RunFolder, list[Job]]:
    """Return the run's folder and the arms that the run will make."""
    if experiment is None:
        folder = RunFolder(runs / loaded.recipe.name)
        return folder, [make_job(loaded, folder, read_suite=suite_items, create=create, permission=permission)]
    folder = experiment.folder.create() if create else experiment.folder
    return folder, arm_jobs(experiment, create=create)


def _sample(jobs: Sequence[Job], count: int, folder: RunFolder) -> dict[str, list[str]]:
    """Make the first candidates of every arm that asks a model; return the duplicates among them, by arm."""
    asking = [job for job in jobs if committee_of(job.recipe) is not None]
    if not asking:
        return {}
    with folder.lock():
        return run_sample(asking, count, View(folder / "log.jsonl"), folder / "logs")


def is_experiment(recipe: Path) -> bool:
    """Return whether a recipe file describes an experiment; the loader reports unreadable files."""
    try:
        content = plain_yaml(read_regular(recipe))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "arms" in content


def _on(each: Forecast, keys: Sequence[tuple[str, str]]) -> Forecast:
    """Extend a forecast to the keys of all arms."""
    places = [keys.index(key) for key in each.keys]
    expected = np.zeros((len(keys), each.expected.shape[1]))
    drawn = np.zeros((len(each.drawn), *expected.shape))
    expected[places], drawn[:, places] = each.expected, each.drawn
    return replace(each, keys=tuple(keys), expected=expected, drawn=drawn)


def _arm(job: Job, past: Path | None, sample: int | None, duplicates: Sequence[str]) -> tuple[ArmPlan, list[str]]:
    """Return one arm's forecast and notes on it."""
    recipe = job.recipe
    if committee_of(recipe) is None:
        return ArmPlan(recipe, None, "asks no model"), []
    seeds = job.seeds.rows
    if past is not None:
        observed, own = _from_past(recipe, past), False
    elif job.ledger.is_file() and (sample is not None or _begun(job)):
        source = f"the first {sample} candidates, made now" if sample else "what this run has done so far"
        known = frozenset(duplicates or _duplicates(job.folder.path, recipe.name))
        observed, own = read_costs(job.ledger, recipe.name, source, known), True
    else:
        observed, own = mock_run(job, seeds), False
    prepared = prepared_items(job.preparation, {member.model for member in members_of(recipe)})
    lacking = [seed for seed in seeds if not seed.enriched or not seed.domain]
    spec = recipe.arm_spec
    rounds = recipe.rounds
    labeling = plan_work(recipe, seeds) if spec.labels_texts else None
    work = Work(
        seeds=len(_seed_names(spec, lacking, seeds) - prepared[WorkKind.SEED]),
        control_items=len(_control_names(job, labeling) - prepared[WorkKind.CONTROL_ITEM]),
        answers=len(labeling.texts) if labeling else len(seeds) if spec.keeps_seed_instructions else 0,
        rounds=rounds.count if spec.writes_rounds else 0,
        accept=rounds.accept,
        most=rounds.max_candidates,
        in_flight=candidates_in_flight(_calls_at_once(recipe).values()),
        own=own,
    )
    notes = _doubts(recipe, observed, work)
    if own and sample is None and (changed := _changed(job)):
        notes.append(
            f"{recipe.name}: the recipe has changed since this run was begun ({', '.join(changed)}); finished "
            "candidates count as done here, and cost more if the new recipe asks them again"
        )
    return ArmPlan(recipe, forecast(observed, work, recipe.seed), observed.source), notes


def _calls_at_once(recipe: SynthesisRecipe) -> dict[str, int]:
    """Return the calls that each model takes at once (see `gra.engines.types.calls_at_once`)."""
    places = {member.model: member.engine or recipe.engine for member in members_of(recipe)}
    return {
        name: (recipe.engine if served.kind == "vllm" else served).concurrency
        * (served.replicas or 1)
        * (1 if served.kind == "openai" else BATCHES)
        for name, served in places.items()
    }


def _seed_names(spec: ArmSpec, lacking: Sequence[Seed], seeds: Sequence[Seed]) -> set[str]:
    """Return the ids of the seeds that get keywords or a domain."""
    if spec.writes_rounds:
        return {seed.id for seed in lacking}
    return {seed.id for seed in seeds if not seed.domain} if spec.prepares_committee else set()


def _control_names(job: Job, labeling: LabelWork | None) -> set[str]:
    """Return the ids of seeds and questions that control items are made of; of `arm: annotate`, its control texts."""
    recipe, review, seeds = job.recipe, job.recipe.review, job.seeds.rows
    if not reviews_responses(recipe):
        return {text.id for text in labeling.controls} if labeling else set()
    questions = {question.id for question in drawn_questions(job.control_questions, review.control_items, recipe.seed)}
    if not review.fits_panel:
        return {seed.id for seed, _ in make_control_items(seeds, review.control_items, recipe.seed)} | questions
    responses, instructions = planned_controls(seeds, review, recipe.seed)
    return {item.seed for item in (*responses, *instructions)} | questions


def _begun(job: Job) -> bool:
    """Return whether this run's ledger has finished candidates."""
    reader = LedgerReader(job.ledger)
    try:
        ended = any(read_name(found.candidate) is not None for found in reader.verdicts(job.recipe.name))
    finally:
        reader.close()
    return ended and job.recipe.name in runs_of(job.ledger)


def _changed(job: Job) -> list[str]:
    """Return the sections that changed since the run was begun, except what decides no answer."""
    then, now = read_resolved_recipe(job.folder.path), yaml.safe_load(job.loaded.show())
    free = {"rounds", "budget", "prices", "tracking", "preparation"}
    return [key for key in now if key not in free and key in then and _differ(then[key], now[key])]


def _differ(then: Any, now: Any) -> bool:
    """Return whether a section changed; a key of a newer release that is off changes nothing."""
    if isinstance(then, dict) and isinstance(now, dict):
        return any(_differ(then.get(key), now.get(key)) for key in then.keys() | now.keys())
    return bool(then != now) and not (then is None and now is False)


def _from_past(recipe: SynthesisRecipe, past: Path) -> ObservedCosts:
    ledger = past if past.is_file() else find_ledger(past)
    if ledger is None:
        raise DataError(f"{past} has no ledger.sqlite; give a run folder or a ledger file to --from")
    observed = read_costs(ledger, recipe.name, f"the run {past}", frozenset(_duplicates(past, recipe.name)))
    asked = {model for _, model in observed.keys}
    known = {name for m in members_of(recipe) for name in (m.model, m.fallback) if name}
    if not asked & known:
        raise RecipeError(
            f"{past} asked {', '.join(sorted(asked))} and none of this recipe's models ({', '.join(sorted(known))}), "
            "so their cost is unknown; make a sample with --sample N"
        )
    return observed


def _duplicates(run: Path, name: str) -> list[str]:
    """Return the ids of duplicates from a finished run's lineage; of an experiment, from the arm of this name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not run.is_dir():
        return []
    folders = [run, *sorted(run.glob("arms/*"))]
    made = [folder for folder in folders if (folder / "lineage.parquet").is_file() and _made(folder) is not None]
    chosen = [folder for folder in made if len(made) == 1 or _made(folder) == name]
    found = []
    for folder in chosen:
        file = folder / "lineage.parquet"
        try:
            table = pq.read_table(file, columns=["candidate_id", "state"]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read ({error}); see `gra verify {folder}`") from None
        found += [row["candidate_id"] for row in table if row["state"] == State.DUPLICATE]
    return found


def _made(folder: Path) -> str | None:
    """Return the name of the arm in a folder."""
    name = RunFolder(folder).manifest().get("synthesis", {}).get("name")
    return None if name is None else str(name)


def _doubts(recipe: SynthesisRecipe, observed: ObservedCosts, work: Work) -> list[str]:
    """Return notes on how certain the numbers are."""
    ended = len(observed.candidates.passed)
    found = []
    if any(verifier.kind == "functions" for verifier in recipe.review.verifiers):
        found.append(f"{recipe.name}: the calls that write functions, once a run, are not in these figures")
    if not observed.measured and recipe.annotate is not None and recipe.review.disputed == "adjudicate":
        found.append(f"{recipe.name}: the adjudicator's calls for labels in doubt are not in these figures")
    if not observed.measured:
        found.append(
            f"{recipe.name}: no model was asked; lengths, speeds and the share that passes are assumed. A sample "
            "(--sample 8) or a past run (--from RUN) gives measured ones"
        )
    elif work.rounds and not ended:
        found.append(f"{recipe.name}: no candidate has ended in {observed.source}, so half are taken to pass")
    elif work.rounds:
        passed = int(observed.candidates.passed.sum())
        found.append(f"{recipe.name}: {passed} of {ended} candidates passed all gates in {observed.source}")
    if observed.measured and work.control_items and not len(observed.of(WorkKind.CONTROL_ITEM)):
        found.append(f"{recipe.name}: {observed.source} asked no control items, so these cost nothing here")
    if work.rounds and observed.measured and ended < work.accept * work.rounds / 10:
        found.append(f"{recipe.name}: duplicates grow more frequent in a run much longer than {observed.source}")
    asked = {model for _, model in observed.keys}
    unseen = {m.model for m in members_of(recipe)} - asked - {m.fallback for m in members_of(recipe)}
    unseen = {name for name in unseen if not any(m.fallback in asked for m in members_of(recipe) if m.model == name)}
    if unseen and observed.measured:
        found.append(
            f"{recipe.name}: {', '.join(sorted(unseen))} was never asked in {observed.source} and costs nothing here"
        )
    return found
