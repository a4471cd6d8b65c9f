"""Run an experiment of a teacher and a student: rounds, trainings, and the measurement on held-out problems.

Every stage is recorded, and skipped when it is done for the same inputs. So the same command goes on after an
interruption, and answers are never asked for twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from gra.checks.answers import ANSWERS_VERSION
from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.core.errors import NoRows, saving
from gra.core.files import write_json, write_text
from gra.core.hashing import canonical_json, digest
from gra.core.processes.background import run
from gra.core.progress import View
from gra.core.stored.resolved_recipe import RESOLVED
from gra.core.text.special_tokens import SpecialTokens
from gra.data.embedder import Embedder
from gra.engines.broker import Broker
from gra.engines.types import calls_at_once
from gra.experiment.students import TrainingProcess
from gra.experiment.symbiosis.evaluate import (
    LINES,
    NAMES,
    PLAIN,
    RATIONALES,
    VARIANTS,
    compare_scores,
    markdown,
    measure,
)
from gra.experiment.symbiosis.explore import RoundRows, TrainingRow, Workplace, plain_rows, play_round
from gra.experiment.symbiosis.plan import SymbiosisPlan, asked_as
from gra.experiment.symbiosis.store import SolutionStore
from gra.ledger.ledger import Ledger
from gra.models.catalog import resolve
from gra.serving.models import ModelRegistry, find_models, running
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.prompts import folder_digests
from gra.training.options.trl_config import check_arguments

RESULT, REPORT = "symbiosis.json", "symbiosis.md"
_VERSION = 1  # raise when the same inputs would give other rows or scores
_FILES = {PLAIN: "plain", LINES: "lines", RATIONALES: "rationales"}


@dataclass(frozen=True)
class SymbiosisResult:
    """What an experiment measured."""

    plan: SymbiosisPlan
    found: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return {"name": self.plan.recipe.name, "report": str(self.plan.folder / REPORT), **self.found}

    def table(self) -> Table:
        """Return the table for a terminal."""
        table = Table("condition", "solved", "95 %", "difference", "95 %")
        compared = {each["ours"]: each for each in self.found["differences"]}
        for name, each in self.found["solved"].items():
            gain = compared.get(name)
            shown = ("", "") if gain is None else (
                f"{gain['value']:+.3f} against {gain['reference']}", f"{gain['low']:+.3f} to {gain['high']:+.3f}"
            )  # fmt: skip
            table.add_row(NAMES[name], f"{each['value']:.3f}", f"{each['low']:.3f} to {each['high']:.3f}", *shown)
        return table


def run_symbiosis(plan: SymbiosisPlan) -> SymbiosisResult:
    """Do every stage that is not yet done, and write the report.

    Raises:
        GraError: for wrong input, an engine that is lost for good, a training that fails, or rounds without a row.
    """
    plan.folder.create()
    view = View(plan.folder / "log.jsonl")
    with plan.folder.lock(), saving(plan.folder.path):
        write_text(plan.folder / RESOLVED, plan.loaded.show() + "\n")
        for note in plan.notes:
            view.note(note)
        check_arguments(plan.student)
        recipe, seeds = plan.recipe, plan.recipe.training_seeds
        made = RoundRows(SolutionStore(plan.held_out, plan.given), SolutionStore(plan.held_out, plan.given))
        history: list[dict[str, Any]] = []
        student: Path | None = None
        for number in range(1, recipe.rounds + 1):
            made = _round(plan, view, made, number, student)
            history.append(made.facts)
            _write_rows(plan, made, number)
            if number < recipe.rounds:
                with TrainingProcess(view) as trainer:  # whose process would hold memory beside the engines
                    student = _train(plan, trainer, RATIONALES if made.rationales else LINES, number, seeds[0])
        students = {}
        with TrainingProcess(view) as trainer:
            for variant in VARIANTS:
                if _rows_file(plan, variant, recipe.rounds).stat().st_size:
                    students[variant] = [_train(plan, trainer, variant, recipe.rounds, seed) for seed in seeds]
                else:
                    view.note(f"! there are no rows for the {NAMES[variant]}, so this condition is left out")
        return SymbiosisResult(plan, _measure(plan, view, made, students, history))


def _round(plan: SymbiosisPlan, view: View, made: RoundRows, number: int, student: Path | None) -> RoundRows:
    """Play one round, or read it where it was played before.

    Raises:
        NoRows: when no walk of any round so far ended in the right answer.
    """
    members = {"teacher": plan.recipe.teacher, "student": _trained(plan.recipe.student, student)}
    registry = _find(plan, members, view)
    name, file = f"round-{number}", plan.folder / "rounds" / f"{number}.json"
    fingerprint = _fingerprint(plan, registry, members, [number, made.to_json()])
    if plan.folder.completed(name, fingerprint) is not None:
        view.note(f"  round {number}: already played")
        return RoundRows.from_json(json.loads(file.read_text(encoding="utf-8")), plan.held_out)

    async def play(place: Workplace, asked: Mapping[str, Member]) -> None:
        await play_round(place, plan.problems, asked["teacher"], asked["student"], made, number)

    _ask(plan, registry, members, view, f"round {number}", play)
    if not made.lines:
        walks = made.facts["walks"]
        raise NoRows(
            f"round {number}: no walk of {walks['right'] + walks['wrong']} ended in the right answer, so there is "
            "nothing to train on; take easier problems or a larger teacher, or raise `lines` or `line_tokens`"
        )
    write_json(file, made.to_json())
    plan.folder.record(name, {"fingerprint": fingerprint, **made.facts}, [file])
    walks = made.facts["walks"]
    taken = walks["steps"]["equal"] + walks["steps"]["likely"]
    view.note(
        f"  round {number}: {walks['right']} of {len(plan.problems)} walks are right; {taken} of "
        f"{sum(walks['steps'].values())} lines are the student's; {made.facts['rows']['lines']} rows of lines in all"
    )
    return made


def _measure(
    plan: SymbiosisPlan,
    view: View,
    made: RoundRows,
    students: Mapping[str, list[Path]],
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Measure on held-out problems, or read the result where that was done before."""
    recipe = plan.recipe
    members = {"teacher": recipe.teacher, "student": recipe.student}
    places = {(variant, n): folder for variant, folders in students.items() for n, folder in enumerate(folders)}
    named = {key: f"student-{_FILES[key[0]]}-{key[1]}" for key in places}
    members |= {named[key]: _trained(recipe.student, folder) for key, folder in places.items()}
    registry = _find(plan, members, view)
    fingerprint = _fingerprint(plan, registry, members, made.to_json())
    done = plan.folder.completed("symbiosis", fingerprint)
    if done is not None:
        return dict(json.loads((plan.folder / RESULT).read_text(encoding="utf-8")))
    found: dict[str, Any] = {}

    async def ask(place: Workplace, asked: Mapping[str, Member]) -> None:
        trained = {variant: [asked[named[variant, n]] for n in range(len(students[variant]))] for variant in students}
        scores = await measure(place, plan.held_out, asked["teacher"], asked["student"], trained, made)
        found.update(compare_scores(scores), rounds=history)

    _ask(plan, registry, members, view, "held-out problems", ask)
    write_json(plan.folder / RESULT, found)
    write_text(plan.folder / REPORT, f"# {recipe.name}\n\n{markdown(found)}\n")
    short = {"fingerprint": fingerprint, "solved": found["solved"], "differences": found["differences"]}
    plan.folder.record("symbiosis", short, [plan.folder / RESULT, plan.folder / REPORT])
    return found


def _trained(student: MemberConfig, folder: Path | None) -> MemberConfig:
    return student if folder is None else student.model_copy(update={"adapter": str(folder)})


def _find(plan: SymbiosisPlan, members: Mapping[str, MemberConfig], view: View) -> ModelRegistry:
    return find_models([asked_as(plan.recipe, members)], view)


def _members(registry: ModelRegistry, members: Mapping[str, MemberConfig]) -> dict[str, Member]:
    made = {}
    for name, member in members.items():
        model = registry.served(member)
        assert model is not None  # `find_models` has raised where one is missing
        made[name] = make_member(name, member, ReviewConfig(), registry.model_id(model, member.adapter))
    return made


def _fingerprint(plan: SymbiosisPlan, registry: ModelRegistry, members: Mapping[str, MemberConfig], before: Any) -> str:
    """Return a digest of everything that decides a stage's answers."""
    asked = [[asdict(member.model), member.system] for member in _members(registry, members).values()]
    deciding = ("seed", "draws", "choices", "temperature", "control_temperature", "tolerance", "neighbors", "lines",
                "line_tokens", "embedder")  # fmt: skip
    settings = plan.recipe.model_dump(include=set(deciding)) | {
        "sampling": [plan.recipe.teacher.sampling.model_dump(), plan.recipe.student.sampling.model_dump()]
    }
    texts = [[asdict(problem) for problem in problems] for problems in (plan.problems, plan.held_out)]
    return digest([_VERSION, ANSWERS_VERSION, settings, texts, asked, folder_digests("symbiosis"), before])


def _ask(
    plan: SymbiosisPlan,
    registry: ModelRegistry,
    members: Mapping[str, MemberConfig],
    view: View,
    stage: str,
    work: Callable[[Workplace, Mapping[str, Member]], Awaitable[None]],
) -> None:
    """Start the engines of a stage, do its work and end them."""
    asked = _members(registry, members)

    async def all_of_it() -> None:
        async with _workplace(plan, registry, view) as place:
            with view.stage("symbiosis", stage):
                await work(place, asked)

    run(all_of_it())


@asynccontextmanager
async def _workplace(plan: SymbiosisPlan, registry: ModelRegistry, view: View) -> AsyncIterator[Workplace]:
    recipe, embedder = plan.recipe, None
    if recipe.neighbors:
        model = await asyncio.to_thread(resolve, recipe.embedder, accept_licenses=recipe.accept_licenses)
        embedder = Embedder(model.path)
    ledger = Ledger(plan.folder / "ledger.sqlite", run=recipe.name)
    try:
        async with running(registry.pool(plan.folder / "logs"), view) as pool:
            broker = Broker(
                ledger, pool, max_attempts=recipe.engine.max_attempts, call_timeout_s=recipe.engine.call_timeout_s
            )
            at_once = sum(map(calls_at_once, pool.engines.values()))
            tokens = SpecialTokens(registry.template_tokens())
            yield Workplace(broker, recipe, max(1, at_once), embedder, tokens)
    finally:
        ledger.close()


def _rows_file(plan: SymbiosisPlan, variant: str, number: int) -> Path:
    return plan.folder / "rounds" / f"{number}-{_FILES[variant]}.jsonl"


def _write_rows(plan: SymbiosisPlan, made: RoundRows, number: int) -> None:
    """Write the rows that students of a round are trained on, and record the files."""
    rows: dict[str, list[TrainingRow]] = {
        PLAIN: plain_rows(plan.problems, made.control, len(made.lines)),
        LINES: made.lines,
        RATIONALES: made.rationales,
    }
    for variant, each in rows.items():
        write_text(_rows_file(plan, variant, number), "".join(f"{canonical_json(row)}\n" for row in each))
    files = [_rows_file(plan, variant, number) for variant in rows]
    plan.folder.record(f"rows-{number}", {"rows": {_FILES[v]: len(each) for v, each in rows.items()}}, files)


def _train(plan: SymbiosisPlan, trainer: TrainingProcess, variant: str, number: int, seed: int) -> Path:
    """Train a student on a variant's rows, unless that was done before, and return its folder."""
    recipe, key = plan.recipe, f"{_FILES[variant]}-round{number}-seed{seed}"
    sources: list[dict[str, Any]] = [{"path": str(_rows_file(plan, PLAIN if variant == PLAIN else LINES, number))}]
    if variant == RATIONALES:
        sources.append({"path": str(_rows_file(plan, RATIONALES, number)), "weight": recipe.rationale_weight})
    changes: dict[str, Any] = {f"train.{name}": value for name, value in recipe.train.items()} | {
        "name": f"{recipe.name}-{key}",
        "model.name": recipe.student.model,
        "train.seed": seed,
        "data.train": sources,
        "tracking.group": recipe.tracking.group or recipe.name,
        "tracking.wandb": recipe.tracking.wandb,
    }
    if recipe.accept_licenses:
        changes["accept_licenses"] = list(
            dict.fromkeys([*recipe.accept_licenses, *plan.student.recipe.accept_licenses])
        )
    folder = plan.folder / "models" / key
    trainer.train(plan.student.path, folder, changes, key)
    return folder
