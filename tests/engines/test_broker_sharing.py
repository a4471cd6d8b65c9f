"""One question for many: who shares an answer, when it is called off, and whose account it is on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from broker_calls import CALL, GRADE, Asked, ask, make_broker
from scripted_run import said

from gra.config.budget import BudgetConfig
from gra.core.errors import BudgetExhausted
from gra.engines.broker import Broker, EnginePool, call_key
from gra.engines.mock import MockEngine
from gra.engines.types import Answer, Fault, Outcome
from gra.ledger.budget import BudgetAccount
from gra.ledger.ledger import Ledger


def test_one_question_asked_many_times_at_once_is_paid_for_once(ledger: Ledger) -> None:
    script = Asked(said("The Nile."))
    broker = make_broker(ledger, script, delay_s=0.01)

    async def scenario() -> list[Outcome]:
        return await asyncio.gather(*(broker.ask(replace(CALL, candidate=f"r1-{i}")) for i in range(50)))

    outcomes = asyncio.run(scenario())
    assert len(script.calls) == 1
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_canceled_candidate_leaves_the_answer_to_the_others(ledger: Ledger) -> None:
    script = Asked(said("The Nile."))
    broker = make_broker(ledger, script, delay_s=0.02)

    async def scenario() -> Outcome:
        first, second = asyncio.create_task(broker.ask(CALL)), asyncio.create_task(broker.ask(CALL))
        await asyncio.sleep(0.005)
        first.cancel()
        return await second

    assert isinstance(asyncio.run(scenario()), Answer)
    assert len(script.calls) == 1


def test_call_without_waiters_is_canceled(ledger: Ledger) -> None:
    script = Asked(said("The Nile."))
    broker = make_broker(ledger, script, delay_s=0.02)

    async def scenario() -> Outcome:
        only = asyncio.create_task(broker.ask(CALL))
        await asyncio.sleep(0.005)
        assert broker.progress.in_flight["model-a"] == 1
        only.cancel()
        later = asyncio.create_task(broker.ask(CALL))  # begins afresh, and not with what was just called off
        await asyncio.gather(only, return_exceptions=True)
        found = await later
        await asyncio.sleep(0.03)
        return found

    assert isinstance(asyncio.run(scenario()), Answer)
    assert (len(script.calls), broker.progress.asked, broker.progress.in_flight["model-a"]) == (1, 2, 0)


def test_call_of_two_candidates_is_canceled_with_the_second(ledger: Ledger) -> None:
    script = Asked(said("The Nile."))
    broker = make_broker(ledger, script, delay_s=0.4)

    async def scenario() -> None:
        both = [asyncio.create_task(broker.ask(CALL)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for scenario, in_flight in zip(both, (1, 0), strict=True):
            scenario.cancel()
            await asyncio.gather(scenario, return_exceptions=True)
            await asyncio.sleep(0)
            assert broker.progress.in_flight["model-a"] == in_flight
        await asyncio.sleep(0.5)

    asyncio.run(scenario())
    assert (script.calls, list(ledger.answers()), ledger.faults()) == ([], [], {})


def test_answer_of_a_canceled_candidate_is_kept_when_the_ledger_is_closed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "test")
    commit = ledger._commit
    ledger._commit = lambda batch: (time.sleep(0.05), commit(batch))[1]  # type: ignore[method-assign]
    broker = make_broker(ledger, Asked(said("The Nile.")))

    async def scenario() -> None:
        first = asyncio.create_task(broker.ask(CALL))
        await asyncio.sleep(0.02)  # its answer is on its way to the disk, and the next one waits behind it
        second = asyncio.create_task(broker.ask(replace(CALL, sample=1)))
        await asyncio.sleep(0.01)
        for scenario in (first, second):
            scenario.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        ledger.close()

    asyncio.run(scenario())
    again = Ledger(tmp_path / "ledger.sqlite", "test")
    assert len(list(again.answers())) == 2
    again.close()


def test_arms_that_share_ledger_and_engines_pay_once_for_what_they_ask_at_once(tmp_path: Path) -> None:
    script = Asked(said("The Nile."))
    pool = EnginePool({"model-a": MockEngine("model-a", script, delay_s=0.02)}, 1.0)
    ledgers = [Ledger(tmp_path / "shared.sqlite", name) for name in ("one", "two")]
    one, two = (Broker(ledger, pool, backoff_s=0.0) for ledger in ledgers)

    async def scenario() -> None:
        both = await asyncio.gather(one.ask(CALL), two.ask(replace(CALL, role="reviewer")), two.ask(CALL))
        assert [outcome.value for outcome in both if isinstance(outcome, Answer)] == ["The Nile."] * 3
        assert len(script.calls) == 1
        # When the first arm needs it no more, the other one asks for itself.
        call = replace(CALL, sample=1)
        called_off, still = asyncio.create_task(one.ask(call)), asyncio.create_task(two.ask(call))
        await asyncio.sleep(0.005)
        called_off.cancel()
        assert isinstance(await still, Answer)
        assert len(script.calls) == 2

    asyncio.run(scenario())
    assert [ledger.spent() for ledger in ledgers] == [52, 52]
    assert pool.asking == {}
    for ledger in ledgers:
        ledger.close()


def test_every_recorded_attempt_is_on_the_askers_account(ledger: Ledger) -> None:
    paid: list[str] = []
    call = replace(CALL, output=GRADE)
    broker = make_broker(
        ledger, Asked(said("no"), Fault("died", "gone"), said('{"grade"', "length"), said('{"grade": 7}'))
    )
    for _ in range(2):  # replayed, it costs what it cost
        paid.clear()
        asyncio.run(broker.ask(call, lambda answer: paid.append(answer.key)))
        assert paid == [call_key(call, attempt) for attempt in range(3)]


def test_the_budget_counts_every_resume_and_stops_only_admission(ledger: Ledger) -> None:
    outcome, _ = ask(ledger, CALL, said("a b"), account=BudgetAccount(ledger, BudgetConfig(tokens=52)))
    assert isinstance(outcome, Answer)
    broker = make_broker(ledger, Asked(said("c d")), account=BudgetAccount(ledger, BudgetConfig(tokens=53)))
    broker.check_budget()  # 52 spent by the run before
    assert isinstance(asyncio.run(broker.ask(replace(CALL, sample=1))), Answer)
    with pytest.raises(BudgetExhausted, match=r"budget of 53 tokens is used up \(104 spent") as caught:
        broker.check_budget()
    assert caught.value.exit_code == 3
    assert isinstance(asyncio.run(broker.ask(replace(CALL, sample=2))), Answer)  # paid work may finish
