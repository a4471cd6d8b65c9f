"""What a recipe will cost, before it is spent: `gra plan RECIPE [--from RUN | --sample N]`.

The forecast stands on the best evidence there is: a past run that is named, a sample that is really made (the run's
own first candidates, which the run will not ask again), what the run has done already, or else a rehearsal with
stand-in models. Every number comes with a range, and the text says what it stands on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe, committee_of, members_of
from gra.core.errors import DataError, RecipeError
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import find_ledger, read_resolved_recipe
from gra.core.types import State
from gra.engines.types import BATCHES
from gra.evaluation.suite import suite_items
from gra.experiment import ExperimentPlan, arm_jobs, load_experiment
from gra.forecast.memory import Memory, memory_plan
from gra.forecast.mock_run import rehearse
from gra.forecast.observed_costs import COLUMNS, Floats, ObservedCosts, kind_of, read_evidence, runs_of
from gra.forecast.simulate import CostRange, Forecast, Work, forecast, summarise, together
from gra.forecast.stages import add, forecast_stages, scaled
from gra.ledger.budget import token_cost
from gra.ledger.reader import LedgerReader
from gra.sandbox.permission import Permission
from gra.synthesis.job import Job, candidates_in_flight
from gra.synthesis.run import make_job, run_sample


@dataclass(frozen=True)
class ArmPlan:
    """One arm: what it is, and what it will cost; an arm that asks nobody costs nothing."""

    recipe: SynthesisRecipe
    forecast: Forecast | None
    source: str

    @property
    def rows(self) -> int | None:
        """The rows it writes, as far as that is not known from its seeds."""
        writes = self.forecast is not None and self.recipe.writes_samples
        return round(self.forecast.rows.point) if self.forecast is not None and writes else None

    def usd(self) -> CostRange:
        """What its tokens cost by the recipe's prices."""
        if self.forecast is None:
            return CostRange(0.0, 0.0, 0.0)
        return summarise(self._cost(self.forecast.expected), self._costs())

    def caps(self) -> dict[str, float]:
        """How likely the recipe's caps are reached: the share of draws, by cap."""
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
    """The forecast of a recipe: every arm's, the stages', and what the machine must hold."""

    name: str
    arms: Sequence[ArmPlan]
    total: Forecast | None
    stages: Mapping[str, CostRange]  # seconds
    memory: Memory
    notes: Sequence[str] = field(default_factory=list)

    @property
    def seconds(self) -> CostRange:
        """All stages that could be forecast."""
        return add(self.stages.values())

    @property
    def gpu_hours(self) -> CostRange:
        """Of the synthesis: from the start of the engines to the last answer."""
        held = add(self.stages[name] for name in ("engines", "synthesis") if name in self.stages)
        return scaled(held, self.memory.gpus / 3600)

    def usd(self) -> CostRange | None:
        """Money, where the recipe has prices."""
        priced = [arm for arm in self.arms if arm.recipe.prices.models or arm.recipe.prices.gpu_hour is not None]
        if not priced:
            return None
        hourly = max((arm.recipe.prices.gpu_hour or 0.0 for arm in priced), default=0.0)
        return add([*(arm.usd() for arm in priced), scaled(self.gpu_hours, hourly)])


def make_plan(
    recipe: Path,
    overrides: Sequence[str],
    runs: Path,
    past: Path | None,
    sample: int | None,
    permission: Permission | None = None,
) -> Planned:
    """Forecast a synthesis recipe, or an experiment; `permission` is for the first, the second says it for its arms.

    Raises:
        RecipeError: when the recipe is wrong, or the past run knows nothing of its models.
        DataError: when the past run or the seeds cannot be read.
    """
    if past is not None and sample is not None:
        raise RecipeError("--from and --sample are two ways to know; give one of them")
    if sample is not None and sample < 1:
        raise RecipeError(f"--sample takes a number of candidates, at least 1, not {sample}")
    experiment = load_experiment(recipe, overrides, runs) if is_experiment(recipe) else None
    folder, jobs = _jobs(recipe, overrides, runs, experiment, permission, create=sample is not None)
    duplicates = _sample(jobs, sample, folder) if sample is not None else {}
    memory = memory_plan([job.recipe for job in jobs])
    told = [_arm(job, past, sample, duplicates.get(job.recipe.name, [])) for job in jobs]
    arms = [arm for arm, _ in told]
    forecasts = [arm.forecast for arm in arms if arm.forecast is not None]
    keys = sorted({key for each in forecasts for key in each.keys})
    total = together([_on(each, keys) for each in forecasts]) if forecasts else None
    log = (past if past is not None and past.is_dir() else folder.path) / "log.jsonl"
    rows = {arm.recipe.name: arm.rows for arm in arms}
    stages, missing = forecast_stages(total, memory.gpus > 0, log, experiment, rows, past)
    notes = [note for _, found in told for note in found] + missing
    name = jobs[0].recipe.name if experiment is None else experiment.recipe.name
    return Planned(name, arms, total, stages, memory, notes)


def _jobs(
    recipe: Path,
    overrides: Sequence[str],
    runs: Path,
    experiment: ExperimentPlan | None,
    permission: Permission | None,
    *,
    create: bool,
) -> tuple[RunFolder, list[Job]]:
    """The arms that the run will make, and the folder it will make them in."""
    if experiment is None:
        loaded = load_recipe(recipe, SynthesisRecipe, overrides)
        folder = RunFolder(runs / loaded.recipe.name)
        return folder, [make_job(loaded, folder, read_suite=suite_items, create=create, permission=permission)]
    folder = experiment.folder.create() if create else experiment.folder
    return folder, arm_jobs(experiment, create=create)


def _sample(jobs: Sequence[Job], count: int, folder: RunFolder) -> dict[str, list[str]]:
    """Make the first candidates of every arm that asks somebody; the duplicates among them by arm."""
    asking = [job for job in jobs if committee_of(job.recipe) is not None]
    if not asking:
        return {}
    with folder.lock():
        return run_sample(asking, count, View(folder / "log.jsonl"), folder / "logs")


def is_experiment(recipe: Path) -> bool:
    """Whether a recipe file describes a whole job; a file that cannot be read is told of by the loader."""
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "arms" in content


def _on(each: Forecast, keys: Sequence[tuple[str, str]]) -> Forecast:
    """A forecast with room for the roles and models of all arms."""
    places = [keys.index(key) for key in each.keys]
    expected = np.zeros((len(keys), each.expected.shape[1]))
    drawn = np.zeros((len(each.drawn), *expected.shape))
    expected[places], drawn[:, places] = each.expected, each.drawn
    return replace(each, keys=tuple(keys), expected=expected, drawn=drawn)


def _arm(job: Job, past: Path | None, sample: int | None, duplicates: Sequence[str]) -> tuple[ArmPlan, list[str]]:
    """One arm's forecast, and what a reader should know of it."""
    recipe = job.recipe
    if committee_of(recipe) is None:
        return ArmPlan(recipe, None, "asks nobody"), []
    seeds = job.seeds.rows
    if past is not None:
        evidence, own = _from_past(recipe, past), False
    elif job.ledger.is_file() and (sample is not None or _begun(job)):
        source = f"the first {sample} candidates, made now" if sample else "what this run has done so far"
        known = frozenset(duplicates or _duplicates(job.folder.path, recipe.name))
        evidence, own = read_evidence(job.ledger, recipe.name, source, known), True
    else:
        evidence, own = rehearse(job, seeds), False
    lacking = [seed for seed in seeds if not seed.enriched or not seed.domain]
    grows = recipe.writes_samples
    rounds = recipe.rounds
    work = Work(
        seeds=len(lacking) if grows else sum(not seed.domain for seed in seeds),
        pairs=min(recipe.review.control_items, len(seeds)) if recipe.has_stories else 0,
        answers=len(seeds) if recipe.arm in ("refined", "integrated") or not recipe.has_stories else 0,
        rounds=rounds.count if grows else 0,
        accept=rounds.accept,
        most=rounds.max_candidates,
        in_flight=candidates_in_flight(_calls_at_once(recipe).values()),
        own=own,
    )
    notes = _doubts(recipe, evidence, work)
    if own and sample is None and (changed := _changed(job)):
        notes.append(
            f"{recipe.name}: the recipe has changed since this run was begun ({', '.join(changed)}), and what has "
            "ended is taken to be done; if the new recipe asks it again, it costs more than this"
        )
    return ArmPlan(recipe, forecast(evidence, work, recipe.seed), evidence.source), notes


def _calls_at_once(recipe: SynthesisRecipe) -> dict[str, int]:
    """The calls that each model takes at once (`gra.engines.types.calls_at_once`)."""
    places = {member.model: member.engine or recipe.engine for member in members_of(recipe)}
    return {
        name: (recipe.engine if served.kind == "vllm" else served).concurrency
        * (served.replicas or 1)
        * (1 if served.kind == "openai" else BATCHES)
        for name, served in places.items()
    }


def _begun(job: Job) -> bool:
    """Whether this run's ledger has ended candidates to go by."""
    reader = LedgerReader(job.ledger)
    try:
        ended = any(kind_of(found.candidate) is not None for found in reader.verdicts(job.recipe.name))
    finally:
        reader.close()
    return ended and job.recipe.name in runs_of(job.ledger)


def _changed(job: Job) -> list[str]:
    """Where a recipe says other things than when its run was begun, apart from how much and for what price."""
    then, now = read_resolved_recipe(job.folder.path), yaml.safe_load(job.loaded.show())
    free = {"rounds", "budget", "prices", "tracking"}
    return [key for key in now if key not in free and key in then and then[key] != now[key]]


def _from_past(recipe: SynthesisRecipe, past: Path) -> ObservedCosts:
    ledger = past if past.is_file() else find_ledger(past)
    if ledger is None:
        raise DataError(f"{past} has no ledger.sqlite; give a run folder or a ledger file to --from")
    evidence = read_evidence(ledger, recipe.name, f"the run {past}", frozenset(_duplicates(past, recipe.name)))
    asked = {model for _, model in evidence.keys}
    known = {name for m in members_of(recipe) for name in (m.model, m.fallback) if name}
    if not asked & known:
        raise RecipeError(
            f"{past} asked {', '.join(sorted(asked))} and none of this recipe's models ({', '.join(sorted(known))}), "
            "so it tells nothing about their cost; make a sample with --sample N"
        )
    return evidence


def _duplicates(run: Path, name: str) -> list[str]:
    """The duplicates of a finished run (of an experiment, of its arm of this name), as its lineage says."""
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
    """The name of the arm that a folder holds."""
    name = RunFolder(folder).manifest().get("synthesis", {}).get("name")
    return None if name is None else str(name)


def _doubts(recipe: SynthesisRecipe, evidence: ObservedCosts, work: Work) -> list[str]:
    """What a reader should know before believing the numbers."""
    told = len(evidence.candidates.passed)
    found = []
    if not evidence.sure:
        found.append(
            f"{recipe.name}: nobody was asked; lengths, speeds and the share that passes are assumed. A sample "
            "(--sample 8) or a past run (--from RUN) tells more"
        )
    elif work.rounds and not told:
        found.append(f"{recipe.name}: no candidate has ended in {evidence.source}, so half are taken to pass")
    elif work.rounds:
        passed = int(evidence.candidates.passed.sum())
        found.append(f"{recipe.name}: {passed} of {told} candidates passed all gates in {evidence.source}")
    if work.rounds and evidence.sure and told < work.accept * work.rounds / 10:
        found.append(f"{recipe.name}: duplicates grow more frequent in a run much longer than what this stands on")
    asked = {model for _, model in evidence.keys}
    unseen = {m.model for m in members_of(recipe)} - asked - {m.fallback for m in members_of(recipe)}
    unseen = {name for name in unseen if not any(m.fallback in asked for m in members_of(recipe) if m.model == name)}
    if unseen and evidence.sure:
        found.append(
            f"{recipe.name}: {', '.join(sorted(unseen))} was never asked in {evidence.source} and costs nothing here"
        )
    return found
