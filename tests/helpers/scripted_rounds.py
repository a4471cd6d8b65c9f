"""Single rounds on mock engines, for the tests of rounds and of what decides about their rows."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripted_run import (
    JitteryEngine,
    Script,
    WordEmbedder,
    answer_by_content,
    make_recipe,
    make_seeds,
    open_ledger,
)

from gra.config.budget import BudgetConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.types import Candidate, Seed, State
from gra.engines.broker import Broker, EnginePool
from gra.engines.types import ModelId
from gra.ledger.budget import BudgetAccount
from gra.synthesis.candidate import CandidateSettings, candidate_id
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.verifiers import make_verifiers
from gra.synthesis.rounds.round import Round, grow

fresh = itertools.count()


@dataclass(frozen=True)
class Found:
    """A round's result, read while its ledger was open."""

    candidates: list[Candidate]
    stopped: str
    beyond: int

    @property
    def accepted(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.state is State.ACCEPTED]


async def run_round(this_round: Round) -> Found:
    result = await this_round.run(lambda ended, recorded: None)
    found = Found(list(result.candidates), result.stopped, result.beyond)
    assert len(result.candidates) == len(found.candidates)
    assert [c.id for c in result.candidates.accepted()] == [c.id for c in found.accepted]
    assert result.rows == Counter(c.domain for c in found.accepted)
    return found


def make_setting(recipe: SynthesisRecipe) -> CandidateSettings:
    assert recipe.committee is not None
    ids = {n: ModelId(m.model, f"sha256:{m.model}", "t") for n, m in recipe.committee.models.items()}
    members = make_members(recipe.committee, recipe.review, ids)
    return CandidateSettings(recipe, members, verifiers=make_verifiers(recipe.review.verifiers, members))


async def run_one(
    path: Path,
    recipe: SynthesisRecipe,
    in_flight: int,
    script: Script = answer_by_content,
    *,
    seeds: list[Seed] | None = None,
    token_budget: int | None = None,
    up_to_s: float = 0.002,
    thresholds: dict[str, dict[str, float]] | None = None,
) -> Found:
    setting = replace(make_setting(recipe), thresholds=thresholds or {})
    names = {member.model.name for member in setting.members.values()}
    pool = EnginePool({n: JitteryEngine(n, script, up_to_s=up_to_s) for n in names}, 100.0)
    ledger = open_ledger(path)
    try:
        broker = Broker(ledger, pool, backoff_s=0.0, account=BudgetAccount(ledger, BudgetConfig(tokens=token_budget)))
        samples = grow({}, make_seeds() if seeds is None else seeds)
        return await run_round(Round(setting, broker, ledger, samples, WordEmbedder(), 1, in_flight))  # type: ignore[arg-type]
    finally:
        ledger.close()


def run(folder: Path, recipe: SynthesisRecipe, in_flight: int, *args: Any, path: Path | None = None, **options: Any):
    path = path or folder / f"{next(fresh)}.sqlite"
    return asyncio.run(run_one(path, recipe, in_flight, *args, **options))


def small(**changes: Any) -> SynthesisRecipe:
    return make_recipe(rounds={"count": 1, "accept": 8, "max_candidates": 120}, **changes)


def check_ended_once(result: Found) -> None:
    """Every candidate, from the first to the last begun, is there once and has a state and a reason."""
    assert [c.id for c in result.candidates] == [candidate_id(1, i) for i in range(len(result.candidates))]
    assert all(c.state in State and c.reason for c in result.candidates)
