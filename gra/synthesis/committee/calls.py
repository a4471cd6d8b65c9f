"""Ask questions on behalf of one candidate, and record what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from gra.core.errors import EngineUnavailable
from gra.core.types import Usage
from gra.core.vocabulary import FailureCause
from gra.engines.broker import Broker
from gra.engines.types import (
    Answer,
    Call,
    EngineFailed,
    Outcome,
    Refused,
    TimedOut,
    Truncated,
    Unparsable,
    is_infrastructure_failure,
)
from gra.ledger.ledger import Recorded


class Unanswered(Exception):
    """Report that no attempt gave a usable answer; the candidate fails with this reason.

    Attributes:
        outcome: what the last attempt gave.
        cause: why there is no answer.
    """

    def __init__(self, call: Call, outcome: Outcome) -> None:
        self.outcome = outcome
        self.cause = failure_cause(outcome)
        super().__init__(f"{call.role} {call.member}: {_why(outcome)}")


class MissingAnswers(EngineUnavailable):
    """Models or servers left calls unanswered that a run cannot do without; running again asks them again."""

    def __init__(self, count: int, what: str, last: str) -> None:
        """Report missing answers.

        Args:
            count: how many things lack an answer.
            what: the things, such as `candidates`.
            last: the last failure's sentence.
        """
        super().__init__(
            f"no answer for {count:,} {what}, the last because of: {last}. What was answered is recorded; run the same "
            "command again to ask the rest"
        )


def failure_cause(outcome: Outcome) -> FailureCause:
    """Classify an outcome that is no answer."""
    if is_infrastructure_failure(outcome):
        return FailureCause.INFRASTRUCTURE
    return FailureCause.REQUEST if isinstance(outcome, EngineFailed) else FailureCause.ANSWER


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
    """Asks on behalf of one candidate and adds up what it used.

    Attributes:
        broker: answers the calls.
        candidate: the name that the ledger records the calls under.
        usage: calls and tokens by purpose, of usable and unusable answers alike.
        calls: the keys of all answers used.
        shorten: whether a text that was cut off is asked for once more, shorter, and not by the same call.
    """

    broker: Broker
    candidate: str
    usage: dict[str, Usage] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    shorten: bool = False

    async def ask(self, call: Call, *, repeat_cut_off: bool = True) -> Answer:
        """Return the answer to a call; `repeat_cut_off` says whether one that was cut off is asked for again.

        Raises:
            Unanswered: when no attempt gave a usable answer.
        """
        outcome = await self.broker.ask(call, partial(self._paid, call.role), repeat_cut_off=repeat_cut_off)
        if not isinstance(outcome, Answer):
            raise Unanswered(call, outcome)
        return outcome

    def _paid(self, role: str, answer: Recorded) -> None:
        """Count an answer; unusable answers cost as much."""
        spent = Usage(1, answer.prompt_tokens, answer.completion_tokens)
        self.usage[role] = self.usage.get(role, Usage()) + spent
        self.calls.append(answer.key)
