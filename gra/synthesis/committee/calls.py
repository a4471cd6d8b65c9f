"""A story's accounts: every question goes through here, so that a candidate knows what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from gra.core.types import Usage
from gra.engines.broker import Broker
from gra.engines.types import Answer, Call, EngineFailed, Outcome, Refused, TimedOut, Truncated, Unparsable
from gra.ledger.ledger import Recorded


class Unanswered(Exception):
    """A question that got no usable answer in any attempt; it ends the story as failed, with this reason."""

    def __init__(self, call: Call, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{call.role} {call.member}: {_why(outcome)}")


def _why(outcome: Outcome) -> str:
    match outcome:
        case Unparsable(why=why):
            return f"unusable answer ({why})"
        case Truncated():
            return "answer cut off at the length limit"
        case Refused():
            return "refused"
        case TimedOut(message) | EngineFailed(message):
            return message
        case Answer():
            return "answered"


@dataclass
class CallRecorder:
    """Asks on behalf of one candidate and adds up what it used."""

    broker: Broker
    candidate: str
    usage: dict[str, Usage] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def ask(self, call: Call) -> Answer:
        """The answer to a call.

        Raises:
            Unanswered: when there is none.
        """
        outcome = await self.broker.ask(call, partial(self._paid, call.role))
        if not isinstance(outcome, Answer):
            raise Unanswered(call, outcome)
        return outcome

    def _paid(self, role: str, answer: Recorded) -> None:
        """Whatever was answered was paid for, whether or not it could be used."""
        spent = Usage(1, answer.prompt_tokens, answer.completion_tokens)
        self.usage[role] = self.usage.get(role, Usage()) + spent
        self.calls.append(answer.key)
