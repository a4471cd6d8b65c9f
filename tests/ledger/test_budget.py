"""What a run spends against its caps: counted over all resumes, never twice, and kept."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from scripted_run import make_recipe, said, write_job
from synthesised import command, synthesise

from gra.config.budget import BudgetConfig, PricesConfig, TokenPriceConfig
from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted, RecipeError
from gra.core.progress import View, read_events
from gra.core.run_folder import RunFolder
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, ModelId, SamplingSettings, Text
from gra.experiment import load_experiment
from gra.experiment import run as experiment_run
from gra.ledger.budget import BudgetAccount, GpuTime, token_cost
from gra.ledger.ledger import Ledger
from gra.synthesis.rounds import write_samples
from gra.synthesis.run import budget_stop

LONG = {"count": 1, "accept": 400, "max_candidates": 400}
PRICES = {"models": {f"model-{name}": {"input": 2.0, "output": 10.0} for name in "abcde"}}


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    before = write_samples.Embedder, write_samples.resolve
    yield
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]


def made(folder: Path, **changes: Any) -> dict[str, Any]:
    """The manifest's section after one more start of a run."""
    write_job(folder, make_recipe(**{"rounds": LONG} | changes))
    scripted_run.make(folder)
    facts: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return facts


def in_ledger(folder: Path) -> int:
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        return int(db.execute("SELECT SUM(prompt_tokens + completion_tokens) FROM calls").fetchone()[0])


@pytest.mark.parametrize("cap", [4_000, 12_000, 30_000])
def test_a_cap_on_tokens_is_used_up_and_not_passed(tmp_path: Path, cap: int) -> None:
    facts = made(tmp_path, budget={"tokens": cap})
    assert facts["stopped"] == ["budget"]
    assert facts["spent"]["tokens"] == in_ledger(tmp_path)
    # One candidate may take more than every other before it, and no more than one at a time is begun at the end.
    assert 0.6 * cap < in_ledger(tmp_path) < 1.03 * cap
    assert facts["states"]["accepted"] > 0


def test_over_resumes_a_cap_counts_every_answer_once(tmp_path: Path) -> None:
    made(tmp_path, budget={"tokens": 6_000})
    asked = (tmp_path / "asked.txt").read_text()
    again = made(tmp_path, budget={"tokens": 6_000})
    assert (tmp_path / "asked.txt").read_text() == asked  # all was replayed, and nothing of it was spent again
    assert again["spent"]["tokens"] == in_ledger(tmp_path)
    more = made(tmp_path, budget={"tokens": 15_000})
    assert more["spent"]["tokens"] == in_ledger(tmp_path) < 1.03 * 15_000
    whole = made(tmp_path / "whole", budget={"tokens": 15_000})
    assert abs(more["funnel"]["candidates"] - whole["funnel"]["candidates"]) < 8
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        recorded = db.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
    assert len((tmp_path / "asked.txt").read_text().split()) == recorded  # over all three starts, each paid for once


def test_a_cap_on_money_is_kept_by_the_recipes_prices(tmp_path: Path) -> None:
    facts = made(tmp_path, budget={"usd": 0.05}, prices=PRICES)
    assert facts["stopped"] == ["budget"]
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        read, wrote = db.execute("SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM calls").fetchone()
    assert facts["spent"]["usd"] == pytest.approx((2 * read + 10 * wrote) / 1e6, abs=1e-6)
    assert 0.8 * 0.05 < facts["spent"]["usd"] < 1.03 * 0.05
    stop = budget_stop({"scripted": facts})
    assert stop is not None
    assert stop.exit_code == 3
    assert "Raise the cap in `budget` and run the same command" in str(stop)


def test_a_budget_that_reviewers_use_up_leaves_an_empty_dataset_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    facts = made(tmp_path, budget={"tokens": 200}, review={"control_items": 4})
    assert facts["stopped"] == ["budget"]
    assert facts["funnel"]["candidates"] == 0
    assert (tmp_path / "dataset" / "train.parquet").is_file()
    notes = [event["text"] for event in read_events(tmp_path / "log.jsonl") if event["event"] == "note"]
    assert facts["spent"]["tokens"] < 200 + 4 * 120
    assert any(note.startswith("! before the first candidate: the budget of 200 tokens is used up") for note in notes)
    assert made(tmp_path, budget={"tokens": 40_000}, review={"control_items": 4})["funnel"]["candidates"] > 5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 900), st.integers(0, 900)), max_size=30))
def test_an_account_is_the_sum_of_what_was_paid(paid: list[tuple[str, int, int]]) -> None:
    prices = PricesConfig(gpu_hour=3.0, models={"a": TokenPriceConfig(input=1.0, output=4.0, cached=0.25)})
    account = BudgetAccount(_NoLedger(), BudgetConfig(), prices, gpu_seconds=1800.0)  # type: ignore[arg-type]
    for model, prompt, completion in paid:
        account.pay("r1-000000", "key", model, prompt, prompt // 2, completion)
    assert account.tokens == sum(prompt + completion for _, prompt, completion in paid)
    tokens = sum((p - p // 2) + 0.25 * (p // 2) + 4 * c for model, p, c in paid if model == "a") / 1e6
    assert account.usd == pytest.approx(tokens + 1.5)


class _NoLedger:
    def paid(self, by: str) -> dict[str, dict[str, int]]:
        return {}

    def paid_for_candidates(self) -> list[Any]:
        return []


def test_answers_that_were_no_use_are_paid_for_and_faults_are_not(ledger: Ledger) -> None:
    replies = iter([said("", "stop"), said("one two", "length"), said("an answer")])
    engine = MockEngine("m", lambda call: next(replies))
    call = Call(ModelId("m", "m", "t"), (("user", "Say it."),), Text(), SamplingSettings(0.7, 1.0, 1.0, 9))

    async def ask() -> Broker:
        broker = Broker(ledger, EnginePool({"m": engine}, 9.0), backoff_s=0.0)
        await broker.ask(call)
        return broker

    broker = asyncio.run(ask())
    assert broker.account.tokens == 3 * 50 + 0 + 2 + 2 == ledger.spent()
    assert BudgetAccount(ledger).tokens == broker.account.tokens


def test_gpu_hours_are_kept_over_processes_and_end_a_run(tmp_path: Path, ledger: Ledger) -> None:
    first = GpuTime(ledger.path, "test")
    first.write(10.0)
    first.write(90.0)  # of the same process: not in addition
    other = GpuTime(ledger.path, "another run")
    other.write(5000.0)
    second = GpuTime(ledger.path, "test")
    second.write(6.0)
    assert (first.before(), second.before(), GpuTime(ledger.path, "test").before()) == (6.0, 90.0, 96.0)
    account = BudgetAccount(ledger, BudgetConfig(gpu_hours=0.027), gpu_seconds=96.0)
    account.check()
    account.gpu_seconds += 2.0
    with pytest.raises(BudgetExhausted, match=r"0.027 GPU-hours is used up \(0.0272 used over all resumes\)") as caught:
        account.check()
    assert "budget.gpu_hours" in str(caught.value)
    for held in (first, other, second):
        held.close()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"budget": {"usd": 1.0}}, "`budget.usd` cannot be kept while `model-a` has no price; set `prices.gpu_hour`"),
        ({"prices": {"models": {"modle-a": {"input": 1, "output": 1}}}}, "did you mean `model-a`"),
        ({"budget": {"gpu_hours": 0}}, "must be more than 0"),
        ({"prices": {"models": {"model-a": {"input": 1}}}}, "prices.models.model-a.output"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_spent(tmp_path: Path, changes, complaint: str) -> None:
    recipe = make_recipe().model_dump() | changes
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)
    assert complaint in str(caught.value)


def test_cached_tokens_may_be_cheaper() -> None:
    prices = PricesConfig(models={"m": TokenPriceConfig(input=3.0, output=15.0, cached=0.3)})
    assert token_cost(prices, "m", 1_000_000, 400_000, 10_000) == pytest.approx(0.6 * 3 + 0.4 * 0.3 + 0.15)
    assert token_cost(prices, "somebody else", 1_000_000, 0, 0) == 0.0


def test_a_torn_line_of_the_log_swallows_no_event(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    View(log, quiet=True).event("first", n=1)
    whole = log.read_bytes()
    for cut in range(1, len(whole) + 1):
        log.write_bytes(whole[:cut])
        View(log, quiet=True).event("second", n=2)
        kinds = [event["event"] for event in read_events(log)]
        assert kinds == (["first", "second"] if cut >= len(whole) - 1 else ["second"])


def test_the_command_line_ends_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    facts = made(tmp_path, budget={"tokens": 5_000})
    recipe = tmp_path / "recipe.yaml"
    monkeypatch.setattr("gra.synthesis.run.run_jobs", lambda jobs, *_: {"scripted": facts})
    monkeypatch.chdir(tmp_path)
    assert command("synthesize", str(recipe), "--runs", str(tmp_path / "runs")) == 3
    said_ = capsys.readouterr().err
    assert "error: stopped at the budget: scripted with" in said_
    assert "Traceback" not in said_


def test_what_a_library_prints_is_not_taken_for_the_summary(tmp_path: Path, monkeypatch, capsys) -> None:
    facts = made(tmp_path)

    def talkative(jobs: Any, *_: Any) -> Any:
        print("(raylet) A worker died")
        return {"scripted": facts}

    monkeypatch.setattr("gra.synthesis.run.run_jobs", talkative)
    monkeypatch.chdir(tmp_path)
    assert command("synthesize", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["name"] == "scripted"
    assert "A worker died" in printed.err


def test_a_whole_job_stops_before_it_trains_on_what_a_cap_cut_short(tmp_path: Path, monkeypatch) -> None:
    facts = made(tmp_path / "arm", budget={"tokens": 5_000})
    monkeypatch.setattr("gra.synthesis.run.run_jobs", lambda jobs, *_, **__: {"smoke-gra": facts})
    plan = load_experiment(ROOT / "recipes" / "smoke.yaml", [], tmp_path / "runs")
    plan.folder.create()
    with pytest.raises(BudgetExhausted, match="stopped at the budget: smoke-gra with"):
        experiment_run._synthesize(plan, View(quiet=True))


def test_what_another_recipe_of_the_name_began_is_not_told_over_the_cap(tmp_path: Path) -> None:
    run = synthesise(tmp_path / "one")
    spent = RunFolder(run).manifest()["synthesis"]["spent"]["tokens"]
    asked = len((run / "asked.txt").read_text().splitlines())
    rounds = {"count": 1, "accept": 20, "max_candidates": 20, "parents": "instructions"}
    synthesise(run, rounds=rounds, budget={"tokens": spent})
    made = RunFolder(run).manifest()["synthesis"]
    assert (made["stopped"], made["spent"]["tokens"]) == (["budget"], spent)
    assert len((run / "asked.txt").read_text().splitlines()) == asked
