"""The broker: what a call's identity is, what is asked again, and what each reply means."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from broker_calls import CALL, GRADE, MODEL, SAMPLING, Asked, ask, make_broker
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import said

from gra.core.errors import EngineUnavailable
from gra.engines.broker import KEY_FIELDS, Broker, EnginePool, call_key, call_request
from gra.engines.mock import MockEngine
from gra.engines.types import (
    Answer,
    Call,
    Choice,
    Completion,
    EngineFailed,
    Fault,
    Json,
    Likelihood,
    Outcome,
    Refused,
    Reward,
    Text,
    TimedOut,
    Truncated,
    Unparsable,
)
from gra.ledger.ledger import Ledger

# --- identity -------------------------------------------------------------------------------------------------------


def test_the_key_of_a_fixed_call_never_changes() -> None:
    """If this fails, every ledger in the world forgets its answers: raise KEY_VERSION only on purpose."""
    outputs = [Text(), GRADE, Choice(("yes", "no")), Likelihood("The Nile.")]
    assert [call_key(replace(CALL, output=output), attempt) for attempt, output in enumerate(outputs)] == [
        "53769178b67ed1cc2918c5af0ceea8c00488cd8b5f550d762379af87006e2a91",
        "a479853661c334b96c1a82436ecb3a8ea2ad21ca23c40d08027cbed5a27bfa07",
        "b1a59b31b9512c7a274128cba4bff7b7b00162c9f3f31ade803c3fd3be36dadf",
        "61391061291e26550cd18997cec9e828026e7ffb8ab0fc14e1d0606ec4b13b49",
    ]
    assert tuple(call_request(CALL, 0)) == KEY_FIELDS


def other_text(text: str) -> st.SearchStrategy[str]:
    """The text with one character put in, taken out or changed."""
    places, letters = st.integers(0, len(text)), st.characters(exclude_categories=["Cs"])
    put_in = st.builds(lambda i, c: text[:i] + c + text[i:], places, letters)
    taken = st.integers(0, len(text) - 1).map(lambda i: text[:i] + text[i + 1 :])
    changed = st.builds(lambda i, c: text[:i] + c + text[i + 1 :], st.integers(0, len(text) - 1), letters)
    return (put_in | taken | changed).filter(lambda made: made != text)


system, user = CALL.messages[0][1], CALL.messages[1][1]
sampling_changes = st.one_of(
    st.floats(0, 2).filter(lambda v: v != 0.7).map(lambda v: {"temperature": v}),
    st.floats(0.1, 1).filter(lambda v: v != 0.95).map(lambda v: {"top_p": v}),
    st.floats(0.5, 2).filter(lambda v: v != 1.0).map(lambda v: {"repetition_penalty": v}),
    st.integers(1, 9999).filter(lambda v: v != 256).map(lambda v: {"max_tokens": v}),
)
content_changes = st.one_of(
    other_text(system).map(lambda t: replace(CALL, messages=(("system", t), ("user", user)))),
    other_text(user).map(lambda t: replace(CALL, messages=(("system", system), ("user", t)))),
    st.just(replace(CALL, messages=(("user", user),))),
    st.just(replace(CALL, messages=(("user", system), ("user", user)))),
    st.just(replace(CALL, messages=(*CALL.messages, ("assistant", "The Po")))),
    st.sampled_from(
        [GRADE, Choice(("yes", "no")), Choice(("no", "yes")), Likelihood("x"), Likelihood(""), Reward("x"), Reward("")]
    ).map(lambda output: replace(CALL, output=output)),
    sampling_changes.map(lambda change: replace(CALL, sampling=replace(SAMPLING, **change))),
    st.integers(1, 99).map(lambda sample: replace(CALL, sample=sample)),
    other_text(MODEL.identity).map(lambda t: replace(CALL, model=replace(MODEL, identity=t))),
    other_text(MODEL.template).map(lambda t: replace(CALL, model=replace(MODEL, template=t))),
    st.text(min_size=1, max_size=9).map(lambda t: replace(CALL, model=replace(MODEL, adapter=t))),
)


@given(changed=content_changes)
def test_everything_that_decides_an_answer_changes_the_key(changed: Call) -> None:
    assert call_key(changed) != call_key(CALL)


@given(role=st.text(), candidate=st.text(), member=st.text(), name=st.text())
def test_who_asks_and_what_for_does_not_change_the_key(role: str, candidate: str, member: str, name: str) -> None:
    asked = replace(CALL, role=role, candidate=candidate, member=member, model=replace(MODEL, name=name))
    assert call_key(asked) == call_key(CALL)


@given(st.integers(1, 9))
def test_another_attempt_is_another_key(attempt: int) -> None:
    assert call_key(CALL, attempt) != call_key(CALL)


def test_a_stricter_schema_is_another_question() -> None:
    stricter = Json({**GRADE.schema, "additionalProperties": False})
    assert call_key(replace(CALL, output=stricter)) != call_key(replace(CALL, output=GRADE))


def test_the_order_of_a_schemas_properties_is_the_order_of_decoding() -> None:
    """A comment before the grades gives other grades than one after them."""
    fields = {"comment": {"type": "string"}, "grade": {"type": "integer"}}
    before = Json({"type": "object", "properties": fields})
    after = Json({"type": "object", "properties": dict(reversed(fields.items()))})
    assert call_key(replace(CALL, output=before)) != call_key(replace(CALL, output=after))


# --- outcomes -------------------------------------------------------------------------------------------------------


def test_an_answer_is_paid_for_once_and_replayed_for_ever(ledger: Ledger) -> None:
    first, asked = ask(ledger, CALL, said(" The Nile. "))
    assert isinstance(first, Answer)
    assert (first.value, len(asked.calls)) == ("The Nile.", 1)
    again, asked = ask(ledger, replace(CALL, role="reviewer", candidate="r9", member="b"), said("never used"))
    assert isinstance(again, Answer)
    assert (again.value, again.key, len(asked.calls)) == ("The Nile.", first.key, 0)


@pytest.mark.parametrize(
    ("output", "reply", "kind"),
    [
        (Text(), said("  \n "), Unparsable),
        (Text(), said("It is the", "length"), Truncated),
        (Text(), said("I cannot help", "refusal"), Refused),
        (GRADE, said("grade: 3"), Unparsable),
        (GRADE, said('{"grade": 11}'), Unparsable),
        (GRADE, said('{"grade": "3"}'), Unparsable),
        (GRADE, said("{}"), Unparsable),
        (GRADE, said("null"), Unparsable),
        (GRADE, said('{"grade": NaN}'), Unparsable),
        (GRADE, said('{"grade": 3, "why": "\\ud83d"}'), Unparsable),
        (GRADE, said('{"grade": ' + "9" * 5000 + "}"), Unparsable),
        (GRADE, said('{"grade": 3}', "length"), Truncated),
        (GRADE, said("", "refusal"), Refused),
        (Choice(("yes", "no")), said("yes", yes=0.9), Unparsable),
        (Choice(("yes", "no")), said("yes", yes=0.0, no=0.0), Unparsable),
        (Choice(("yes", "no")), said("yes", yes=float("nan"), no=0.5), Unparsable),
        (Likelihood("x"), said(""), Unparsable),
        (Likelihood("x"), said("", logprob=0.0, tokens=0.0), Unparsable),
        (Reward("x"), said(""), Unparsable),
        (Reward("x"), said("", reward=float("nan")), Unparsable),
        (Reward("x"), said("", reward=float("inf")), Unparsable),
    ],
)
def test_what_is_not_an_answer_is_recorded_asked_again_and_never_a_value(ledger, output, reply, kind) -> None:
    outcome, asked = ask(ledger, replace(CALL, output=output), reply)
    assert type(outcome) is kind
    assert len(asked.calls) == 3
    assert [found.attempt for found in ledger.answers()] == [0, 1, 2]
    again, asked = ask(ledger, replace(CALL, output=output), reply)
    assert (again, len(asked.calls)) == (outcome, 0)  # what a model said is final


def test_a_later_attempt_can_succeed_and_says_which_one_it_was(ledger: Ledger) -> None:
    call = replace(CALL, output=GRADE)
    outcome, asked = ask(ledger, call, said("no"), said('{"grade"', "length"), said('{"grade": 7}'))
    assert isinstance(outcome, Answer)
    assert (outcome.value, outcome.key, len(asked.calls)) == ({"grade": 7}, call_key(call, 2), 3)


def test_probabilities_and_likelihoods(ledger: Ledger) -> None:
    outcome, _ = ask(ledger, replace(CALL, output=Choice(("yes", "no"))), said("yes", "length", yes=0.8, no=0.2))
    assert isinstance(outcome, Answer)
    assert outcome.value == {"yes": 0.8, "no": 0.2}
    outcome, _ = ask(ledger, replace(CALL, output=Likelihood("The Nile")), said("", logprob=-3.5, tokens=2.0))
    assert isinstance(outcome, Answer)
    assert outcome.value == {"logprob": -3.5, "tokens": 2.0}


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["died", "error", "timeout"])
def test_a_fault_is_asked_again_and_never_recorded_as_an_answer(ledger: Ledger, kind: Any) -> None:
    outcome, asked = ask(ledger, CALL, Fault(kind, "gone"), Fault(kind, "gone"), said("The Nile."))
    assert isinstance(outcome, Answer)
    assert len(asked.calls) == 3
    assert [found.attempt for found in ledger.answers()] == [0]
    assert ledger.faults() == {kind: 2}


@pytest.mark.parametrize(("kind", "outcome"), [("timeout", TimedOut), ("died", EngineFailed), ("error", EngineFailed)])
def test_faults_to_the_end_are_an_outcome_of_their_own_and_the_next_run_asks_again(ledger, kind, outcome) -> None:
    found, asked = ask(ledger, CALL, Fault(kind, "gone"))
    assert found == outcome("gone")
    assert len(asked.calls) == 3
    assert list(ledger.answers()) == []
    found, asked = ask(ledger, CALL, said("The Nile."))
    assert isinstance(found, Answer)


def test_a_permanent_fault_is_not_asked_again(ledger: Ledger) -> None:
    outcome, asked = ask(ledger, CALL, Fault("error", "the prompt is too long", permanent=True), said("The Nile."))
    assert outcome == EngineFailed("the prompt is too long", permanent=True)
    assert len(asked.calls) == 1


def test_the_back_off_grows_with_jitter_and_does_not_follow_the_last_attempt(ledger, monkeypatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    broker = make_broker(ledger, Asked(Fault("died", "gone")), max_attempts=4, backoff_s=1.0)
    monkeypatch.setattr("gra.engines.broker.asyncio.sleep", sleep)
    asyncio.run(broker.ask(CALL))
    assert len(slept) == 3
    assert all(2**i <= seconds <= 2 ** (i + 1) for i, seconds in enumerate(slept))


def test_a_lost_engine_costs_no_attempt_but_no_call_is_asked_for_ever(ledger: Ledger) -> None:
    lost = Fault("died", "gone")
    found, _ = ask(ledger, CALL, lost, lost, said("The Nile."), max_attempts=1, backoff_s=0.0)
    assert isinstance(found, Answer)
    deadly = replace(CALL, messages=(("user", "Who kills its engine?"),))
    outcome, asked = ask(ledger, deadly, lost, max_attempts=1, backoff_s=0.0)
    assert outcome == EngineFailed("gone")
    assert len(asked.calls) == 3
    mixed = replace(CALL, messages=(("user", "And if it errs too?"),))
    found, _ = ask(ledger, mixed, lost, Fault("error", "odd"), lost, said("Ok."), max_attempts=2, backoff_s=0.0)
    assert isinstance(found, Answer)


def test_an_answer_that_takes_too_long_times_out_and_frees_its_place(ledger: Ledger) -> None:
    outcome, asked = ask(ledger, CALL, said("late"), delay_s=5.0, call_timeout_s=0.02, max_attempts=2)
    assert outcome == TimedOut("no answer in 0.02 s")
    assert ledger.faults() == {"timeout": 2}
    assert asked.calls == []


def test_a_long_queue_is_no_timeout_while_the_engine_answers(ledger: Ledger) -> None:
    class OneByOne(MockEngine):
        """Answers one call after another, each in a third of the limit."""

        def __init__(self) -> None:
            super().__init__("model-a", lambda call: said("The Nile."))
            self.place = asyncio.Lock()

        async def submit(self, call: Call) -> Completion | Fault:
            async with self.place:
                await asyncio.sleep(0.03)
                return await super().submit(call)

    broker = Broker(ledger, EnginePool({"model-a": OneByOne()}, 1.0), call_timeout_s=0.1, max_attempts=1)

    async def scenario() -> list[Outcome]:
        return await asyncio.gather(*(broker.ask(replace(CALL, sample=number)) for number in range(12)))

    assert [type(outcome) for outcome in asyncio.run(scenario())] == [Answer] * 12
    assert ledger.faults() == {}


def test_an_engine_lost_for_good_ends_every_asker(ledger: Ledger) -> None:
    def lost(call: Call) -> Completion:
        raise EngineUnavailable("lost")

    broker = make_broker(ledger, lost)

    async def scenario() -> list[Any]:
        calls = [CALL, CALL, replace(CALL, sample=1)]
        return await asyncio.gather(*(broker.ask(call) for call in calls), return_exceptions=True)

    assert [type(found) for found in asyncio.run(scenario())] == [EngineUnavailable] * 3


def test_an_engine_that_fails_often_and_in_every_way_still_gives_every_call_its_outcome(ledger: Ledger) -> None:
    import random

    luck, given = random.Random(7), Counter[str]()
    bad = [
        said('{"grade": 1', "length"), said("{}"), said("no", "refusal"), said("never", "stop"),
        Fault("died", "killed"), Fault("error", "odd"), Fault("timeout", "slow"), Fault("error", "too long", True),
    ]  # fmt: skip

    def script(call: Call) -> Completion | Fault:
        if luck.random() < 0.3:
            reply = luck.choice(bad)
            given[type(reply).__name__] += 1
            return reply
        return said(json.dumps({"grade": call.sample % 11}))

    broker = make_broker(ledger, script)

    async def scenario() -> list[Outcome]:
        return await asyncio.gather(*(broker.ask(replace(CALL, output=GRADE, sample=i)) for i in range(400)))

    outcomes = asyncio.run(scenario())
    assert len(outcomes) == 400
    for i, outcome in enumerate(outcomes):
        if isinstance(outcome, Answer):
            assert outcome.value == {"grade": i % 11}  # nothing that failed became a score
        else:
            assert isinstance(outcome, Unparsable | Truncated | Refused | TimedOut | EngineFailed)
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds["Answer"] > 340
    assert kinds["EngineFailed"] > 5
    assert kinds.total() - kinds["Answer"] - kinds["EngineFailed"] > 0
    assert sum(ledger.faults().values()) == given["Fault"] > 20
    assert json.loads(next(ledger.answers()).request)["version"] == 1
