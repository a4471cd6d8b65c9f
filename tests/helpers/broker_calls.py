"""Calls and a broker for the tests of the broker."""

from __future__ import annotations

import asyncio
from typing import Any

from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import (
    Call,
    Completion,
    Fault,
    Json,
    ModelId,
    Outcome,
    SamplingSettings,
    Text,
)
from gra.ledger.ledger import Ledger

MODEL = ModelId("model-a", "sha256:0011", "sha256:2233")


SAMPLING = SamplingSettings(0.7, 0.95, 1.0, 256)


GRADE = Json({"type": "object", "properties": {"grade": {"type": "integer", "maximum": 10}}, "required": ["grade"]})


CALL = Call(MODEL, (("system", "Be brief."), ("user", "Name a river.\n- the Nile\n- the Po")), Text(), SAMPLING)


class Asked:
    """Gives its replies one after another, the last one for ever, and remembers what it was asked."""

    def __init__(self, *replies: Completion | Fault) -> None:
        self.replies = list(replies)
        self.calls: list[Call] = []

    def __call__(self, call: Call) -> Completion | Fault:
        self.calls.append(call)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def make_broker(ledger: Ledger, script: Any, **options: Any) -> Broker:
    pool = EnginePool({"model-a": MockEngine("model-a", script, delay_s=options.pop("delay_s", 0.0))}, 1.0)
    return Broker(ledger, pool, **{"backoff_s": 0.0, **options})


def ask(ledger: Ledger, call: Call, *replies: Completion | Fault, **options: Any) -> tuple[Outcome, Asked]:
    script = Asked(*replies)
    return asyncio.run(make_broker(ledger, script, **options).ask(call)), script
