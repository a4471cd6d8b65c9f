"""`gra plan`: forecasts that are right about runs that are then made, and say what they stand on."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted_run import WordEmbedder, answer_by_content, fake_resolve, make_recipe, write_job
from synthesised import command

from gra.api.costs import screen, to_json
from gra.core.vocabulary import WorkKind
from gra.engines.broker import EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import ModelId
from gra.forecast.memory import memory_plan
from gra.forecast.observed_costs import divide, forward, read_costs
from gra.forecast.plan import make_plan
from gra.forecast.simulate import CostRange, Work, forecast, simulate_round
from gra.models.adapters import Adapter
from gra.serving.models import ModelRegistry
from gra.synthesis import run as jobs
from gra.synthesis.call_names import read_name
from gra.synthesis.job import candidates_in_flight
from gra.synthesis.measuring.preparation import prepared_items, read_preparation
from gra.synthesis.rounds import write_samples

ROUNDS = {"count": 2, "accept": 14, "max_candidates": 90}
PRICES = {"models": {f"model-{name}": {"input": 2.0, "output": 10.0} for name in "abcde"}}


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the real jobs on scripted engines, without looking up models."""

    class Scripted(ModelRegistry):
        def model_id(self, name: str, adapter: str | None = None) -> ModelId:
            return ModelId(name, f"sha256:{name}", "template", adapter or "")

        def pool(self, logs: Path) -> EnginePool:
            return EnginePool({name: MockEngine(name, answer_by_content, delay_s=0.002) for name in self.models}, 100.0)

    def found(recipes: Any, view: Any) -> ModelRegistry:
        names = [m.model for recipe in recipes for m in recipe.committee.models.values()]
        return Scripted(recipes[0].engine, {name: fake_resolve(name) for name in names})

    before = write_samples.Embedder, write_samples.resolve
    write_samples.Embedder, write_samples.resolve = WordEmbedder, fake_resolve  # type: ignore[misc, assignment]
    monkeypatch.setattr(jobs, "find_models", found)
    monkeypatch.setattr("gra.forecast.memory.cached", lambda name: False)
    monkeypatch.setattr("gra.forecast.memory.entry_of", lambda name: None)
    yield
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]


def job(folder: Path, **changes: Any) -> Path:
    write_job(folder, make_recipe(**{"rounds": ROUNDS} | changes))
    return folder / "recipe.yaml"


def synthesised(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe = job(folder, **changes)
    assert command("synthesize", str(recipe), "--runs", str(folder)) == 0
    facts: dict[str, Any] = json.loads((folder / "scripted" / "manifest.json").read_text())["synthesis"]
    return facts


def total(facts: dict[str, Any], key: str) -> int:
    return sum(paid[key] for paid in facts["tokens_by_role"].values())


def near(given: CostRange, actual: float, share: float) -> bool:
    return abs(given.point - actual) <= share * actual


@pytest.mark.parametrize(
    "review", [{"comments": "disputed"}, {"comments": "always", "control_items": 4, "accept_mean": 6.0}]
)
def test_a_past_run_forecasts_another_seed_within_a_fifth(tmp_path: Path, review: dict[str, Any]) -> None:
    past = synthesised(tmp_path / "past", review=review)
    planned = make_plan(
        job(tmp_path / "next", review=review, seed=5), [], tmp_path, tmp_path / "past" / "scripted", None
    )
    actual = synthesised(tmp_path / "next", review=review, seed=5)
    assert past != actual
    assert planned.total is not None
    for column, key in (("calls", "calls"), ("read", "prompt_tokens"), ("written", "completion_tokens")):
        found = planned.total.column(column)
        assert near(found, total(actual, key), 0.2), (column, found, total(actual, key))
        assert found.low < total(actual, key) < found.high
    candidates = planned.arms[0].forecast.candidates  # type: ignore[union-attr]
    assert candidates.low <= actual["funnel"]["candidates"] <= candidates.high + 6


def test_a_sample_is_the_runs_own_beginning_and_forecasts_the_rest(tmp_path: Path) -> None:
    recipe = job(tmp_path)
    planned = make_plan(recipe, [], tmp_path, None, 12)
    ledger = tmp_path / "scripted" / "ledger.sqlite"
    sampled = read_costs(ledger, "scripted", "the sample")
    assert len(sampled.candidates.passed) == 12
    assert not (tmp_path / "scripted" / "manifest.json").exists()
    answers = rows(ledger)
    facts = synthesised(tmp_path)
    assert answers <= rows(ledger)  # used, and none asked again
    found = read_costs(ledger, "scripted", "the run")
    assert len(found.candidates.passed) > 12
    assert planned.total is not None
    assert near(planned.total.column("calls"), total(facts, "calls"), 0.35)
    found = planned.total.column("read")
    assert found.low <= total(facts, "prompt_tokens") <= found.high
    # A run that has begun is forecast from what it has done, and what is done is not forecast again.
    after = make_plan(recipe, [], tmp_path, None, None)
    assert after.total is not None
    assert after.arms[0].source == "what this run has done so far"
    assert near(after.total.column("calls"), total(facts, "calls"), 0.08)
    assert not any("has changed" in note for note in after.notes)
    resolved = tmp_path / "scripted" / "recipe.resolved.yaml"
    older, removed = re.subn(r"\n  repair: false", "", resolved.read_text())  # of a release without the key
    assert removed == 1
    resolved.write_text(older)
    assert not any("has changed" in note for note in make_plan(recipe, [], tmp_path, None, None).notes)
    joined = make_plan(recipe, ["committee.models.f=model-f"], tmp_path, None, None)
    assert any("(committee)" in note for note in joined.notes)
    changed = make_plan(recipe, ["review.accept_mean=9", "rounds.accept=20"], tmp_path, None, None)
    assert any("the recipe has changed since this run was begun (review)" in note for note in changed.notes)


def rows(ledger: Path) -> set[tuple[str, float]]:
    import sqlite3

    with sqlite3.connect(ledger) as db:
        return set(db.execute("SELECT key, written FROM calls"))


def test_mock_run_counts_the_recipes_questions(tmp_path: Path) -> None:
    planned = make_plan(job(tmp_path, budget={"tokens": 100}, prices=PRICES, revise=1), [], tmp_path, None, None)
    facts = synthesised(tmp_path / "made", revise=1)
    assert planned.total is not None
    assert not (tmp_path / "scripted").exists()
    found = planned.total.column("calls")
    assert found.low / 2 < total(facts, "calls") < found.high * 2
    assert planned.total.column("calls", "reviser").point > 1
    assert any("no model was asked" in note for note in planned.notes)
    assert planned.arms[0].caps() == {"tokens": 1.0}
    usd = planned.usd()
    assert usd is not None
    assert usd.low < usd.point < usd.high
    found = to_json(planned)
    assert json.loads(json.dumps(found))["arms"][0]["caps"] == {"tokens": 1.0}
    assert screen(planned) is not None


def test_checks_without_a_scale_reject_no_candidate_of_the_mock_run(tmp_path: Path) -> None:
    checks = {"ask": "yes_no", "checks": ["complete", "in_text", "likely"], "combine_checks": "fitted"}
    review = checks | {"control_items": 4, "control_kinds": ["mismatched"], "control_instructions": 2}
    planned = make_plan(job(tmp_path, review=review), [], tmp_path, None, None)
    assert planned.arms[0].forecast.rows.point > 0
    assert planned.total is not None
    assert planned.total.column("calls", "reviewer").point > 0


def test_recorded_preparation_is_not_forecast(tmp_path: Path) -> None:
    names = [f"model-{name}" for name in "abcde"]
    common = {"text": "", "finish": "stop", "scores": {}, "role": "", "member": ""}
    common |= dict.fromkeys(("attempt", "prompt_tokens", "completion_tokens", "cached_tokens"), 0)
    items = [f"{kind}-{domain}-{n}" for kind in ("probe-good", "enrich") for domain in ("qa", "math") for n in range(3)]
    rows = [
        common | {"model": name, "candidate": item, "request": json.dumps({"model": name, "item": item})}
        for name in names
        for item in items
    ]
    file = tmp_path / "recorded.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    recipe = job(tmp_path, review={"control_items": 4})
    plain = make_plan(recipe, [], tmp_path, None, None)
    prepared = make_plan(recipe, [f"preparation={file}"], tmp_path, None, None)
    assert plain.total is not None
    assert prepared.total is not None
    # Five members review two texts for each of four control items, and six seeds get keywords and a summary.
    assert plain.total.column("calls").point - prepared.total.column("calls").point > 30
    # What the file does not hold is forecast: other seeds, other members.
    answers = read_preparation(file)
    assert prepared_items(answers, names) == {
        WorkKind.CONTROL_ITEM: {f"{d}-{n}" for d in ("qa", "math") for n in range(3)},
        WorkKind.SEED: {f"{d}-{n}" for d in ("qa", "math") for n in range(3)},
    }
    assert not any(prepared_items(answers, [*names, "model-f"]).values())
    assert not any(prepared_items([], ["model-a"]).values())


def test_a_past_run_with_recorded_preparation_forecasts_another_name_and_says_what_it_lacks(tmp_path: Path) -> None:
    review = {"control_items": 4}
    synthesised(tmp_path / "first", review=review)
    file = tmp_path / "recorded.jsonl.gz"
    assert command("ledger", "preparation", str(tmp_path / "first" / "scripted"), str(file)) == 0
    synthesised(tmp_path / "past", review=review, preparation=str(file))
    past = tmp_path / "past" / "scripted"
    planned = make_plan(job(tmp_path / "next", review=review), ["name=other"], tmp_path, past, None)
    assert planned.total is not None
    assert any("asked no control items" in note for note in planned.notes)


def test_a_past_run_of_other_models_is_refused(tmp_path: Path, capsys) -> None:
    synthesised(tmp_path / "past")
    others = {"models": {name: f"other-{name}" for name in "abcde"}}
    recipe = job(tmp_path / "next", committee=others)
    assert command("plan", str(recipe), "--from", str(tmp_path / "past" / "scripted")) == 2
    assert "none of this recipe's models" in capsys.readouterr().err
    assert command("plan", str(recipe), "--from", str(tmp_path)) == 2
    assert "has no ledger.sqlite" in capsys.readouterr().err
    assert command("plan", str(recipe), "--from", str(tmp_path), "--sample", "3") == 2


def test_the_command_prints_json(tmp_path: Path, capsys) -> None:
    synthesised(tmp_path / "past")
    capsys.readouterr()
    assert (
        command("plan", str(tmp_path / "past" / "recipe.yaml"), "--from", str(tmp_path / "past" / "scripted"), "--json")
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert {role["role"] for role in found["arms"][0]["roles"]} >= {"generator", "reviewer", "enricher"}
    assert (
        found["seconds"]["synthesis"]["low"]
        <= found["seconds"]["synthesis"]["point"]
        <= found["seconds"]["all"]["high"]
    )
    assert found["memory"]["models_gb"] == {f"model-{name}": None for name in "abcde"}


def test_clusters_and_adapters_are_planned(tmp_path: Path, monkeypatch) -> None:
    adapter = Adapter(tmp_path, "lora:x", 8, ("q_proj",), 0.25)
    monkeypatch.setattr("gra.forecast.memory.gpu_memory_gb", lambda: None)
    monkeypatch.setattr("gra.forecast.memory.entry_of", lambda name: SimpleNamespace(parameters=2**30))
    monkeypatch.setattr("gra.forecast.memory.find_adapter", lambda name: adapter)
    models = {
        "a": "model-a", "b": {"model": "model-a", "adapter": "folder"}, "c": "model-c",
        "d": {"model": "model-d", "engine": {"kind": "ray", "replicas": 3, "gpus": 0.5}},
    }  # fmt: skip
    recipe = make_recipe(
        committee={"models": models, "reviewers": 2}, engine={"kv_cache_gb": 1, "memory_gb": 10, "threads": 2}
    )
    memory = memory_plan([recipe])
    assert memory.models == {"model-a": 2 + 0.5 + 1 + 2.5, "model-c": 2 + 1 + 2.5}
    assert (memory.together, memory.gpus) == (False, 1 + 1.5)
    write_job(tmp_path, recipe)
    planned = make_plan(tmp_path / "recipe.yaml", [], tmp_path / "runs", None, None)
    assert planned.total is not None
    assert planned.gpu_hours.point == pytest.approx(2.5 * planned.seconds.point / 3600)


def test_candidates_in_flight_match_the_engines_calls() -> None:
    assert candidates_in_flight([64, 64, 800]) == 64 + 64 + 800
    assert candidates_in_flight([64, 4]) == 64 + 12
    assert candidates_in_flight([]) == 12


def test_a_clock_that_was_set_back_loses_no_call() -> None:
    written = np.array([100.0, 110.0, 30.0, 29.0, 45.0])  # set back by 80 s, then written out of turn by 1 s
    assert forward(written).tolist() == [100.0, 110.0, 110.0, 109.0, 125.0]
    assert len(forward(np.zeros(0))) == 0


def test_time_is_divided_among_the_calls_in_flight_and_adds_up() -> None:
    began, ended = np.array([0.0, 0.0, 4.0, 10.0]), np.array([2.0, 6.0, 6.0, 11.0])
    shares, full = divide(began, ended)
    assert shares.tolist() == [1.0, 4.0, 1.0, 1.0]  # 7 s in which there was a call, the pause from 6 to 10 left out
    assert shares.sum() == 7.0
    assert (full <= shares + 1e-9).all()
    assert [len(part) for part in divide(np.zeros(0), np.zeros(0))] == [0, 0]


def test_call_names_give_the_kind_of_work() -> None:
    names = [
        "r1-000003",
        "probe-bad-qa-1",
        "probe-check-qa-1",
        "enrich-r1-000003",
        "enrich-qa-1",
        "domain-qa-1",
        "refined-qa-1",
    ]
    assert [(work.kind, work.item) for work in map(read_name, names) if work is not None] == [
        ("candidate", "r1-000003"), ("pair", "qa-1"), ("pair", "qa-1"), ("row", "enrich-r1-000003"),
        ("seed", "qa-1"), ("seed", "qa-1"), ("answer", "refined-qa-1"),
    ]  # fmt: skip
    assert read_name("something else") is None


@pytest.mark.parametrize("most", [30, 100_000])
def test_a_round_is_played_to_its_rows_or_its_limit(most: int) -> None:
    work = Work(rounds=1, accept=20, most=most, in_flight=24)
    played = [simulate_round(work, 0, 0, 0.25, np.random.default_rng(i)) for i in range(200)]
    if most == 30:
        assert all(passes + fails == 30 for passes, fails, _ in played if passes < 20)
    else:
        assert all(passes >= 20 for passes, _, _ in played)
        assert 75 < np.mean([passes + fails for passes, fails, _ in played]) < 105
    assert simulate_round(work, 20, 40, 0.25, np.random.default_rng(0)) == (0, 0, 0.0)


def test_verdicts_of_an_earlier_recipe_do_not_count(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 14, "max_candidates": 90}
    many = synthesised(tmp_path, rounds=rounds, review={"comments": "disputed", "accept_mean": 8.5})
    few = synthesised(tmp_path, rounds=rounds, review={"comments": "disputed", "accept_mean": 3.0})
    assert few["funnel"]["candidates"] + few["beyond"][0] < many["funnel"]["candidates"]
    observed = read_costs(tmp_path / "scripted" / "ledger.sqlite", "scripted", "the run")
    assert few["funnel"]["candidates"] <= len(observed.candidates.passed)
    assert len(observed.candidates.passed) <= few["funnel"]["candidates"] + few["beyond"][0]
    assert observed.rest[:, 0].sum() > 0


@pytest.mark.slow
def test_more_observations_make_a_narrower_range(tmp_path: Path) -> None:
    synthesised(tmp_path, rounds={"count": 1, "accept": 60, "max_candidates": 60})
    observed = read_costs(tmp_path / "scripted" / "ledger.sqlite", "scripted", "a run")
    few = type(observed)(
        observed.keys,
        observed.units | {WorkKind.CANDIDATE: observed.of(WorkKind.CANDIDATE)[:8]},
        type(observed.candidates)(observed.candidates.passed[:8], observed.candidates.round[:8]),
        "a little",
        observed.rest,
    )
    work = Work(rounds=1, accept=100, most=10_000, in_flight=60)
    wide, narrow = (forecast(known, work).column("calls") for known in (few, observed))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_a_cap_on_gpu_hours_ends_with_3_and_a_higher_one_goes_on(tmp_path: Path, capsys) -> None:
    recipe, again = str(job(tmp_path)), ["--runs", str(tmp_path)]
    assert command("synthesize", recipe, "budget.gpu_hours=0.0000001", *again) == 3
    assert "stopped at the budget: scripted with 0 rows" in capsys.readouterr().err
    assert command("synthesize", recipe, "budget.gpu_hours=1", *again) == 0
    facts = json.loads((tmp_path / "scripted" / "manifest.json").read_text())["synthesis"]
    assert 0.0000001 < facts["spent"]["gpu_hours"] < 0.1
