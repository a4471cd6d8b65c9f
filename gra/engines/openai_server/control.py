"""Find out by short control calls why a call was declined: for itself, its settings, the key or the model.

The wording of an error is for people. It matters only whether a call that every model answers is declined as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gra.core.errors import EngineUnavailable
from gra.engines.openai_server.client import Server
from gra.engines.openai_server.negotiation import SamplingChoice
from gra.engines.openai_server.replies import ChatReply, Problem, read_chat
from gra.engines.types import Fault

ABOUT_ONE_CALL = (403, 404, 405, 410, 451)  # statuses that may be about one call, or about the key, model or address
_CONTROL_TOKENS = 16


class ControlCalls:
    """Ask one server short questions, one at a time."""

    def __init__(self, name: str, server: Server, sampling: SamplingChoice) -> None:
        self._name = name
        self._server = server
        self._sampling = sampling
        self._asking = asyncio.Lock()

    async def find_settings(self, fields: Mapping[str, float]) -> tuple[frozenset[str], str] | Fault | None:
        """Find the settings that the server takes, with short control calls; None where that is not the problem.

        A declined call proves nothing about settings: it may be too long, or of a kind that is not served. A control
        call is answered with the right settings and declined with wrong ones.
        """
        async with self._asking:
            known = self._sampling.omitted(fields), self._sampling.length_key
            if self._sampling.settled(fields):
                return known
            reply = await self._ask(fields, *known)
            if isinstance(reply, Problem):
                for length_key in (known[1], self._sampling.other_length_key(known[1])):
                    reply = await self._ask({}, frozenset(), length_key)
                    if not isinstance(reply, Problem):
                        break
                else:
                    self._sampling.give_up(fields)
                    return None
                known = known[0], length_key
                for omitted in (known[0], *self._sampling.relaxations(fields)):
                    reply = await self._ask(fields, omitted, length_key)
                    if not isinstance(reply, Problem):
                        known = omitted, length_key
                        break
            if isinstance(reply, Fault):
                return reply
            if isinstance(reply, Problem):
                self._sampling.give_up(fields)
                return None
            self._sampling.answered(fields, *known)
            return known

    async def _ask(
        self, fields: Mapping[str, float], omitted: frozenset[str], length_key: str
    ) -> ChatReply | Problem | Fault:
        """Ask a short question that any model answers."""
        sampling = {name: value for name, value in fields.items() if name not in omitted}
        messages = [{"role": "user", "content": "Say yes."}]
        body = {"model": self._server.settings.model, "messages": messages, length_key: _CONTROL_TOKENS, **sampling}
        return await self._server.post("/chat/completions", body, read_chat)

    async def confirm(self, problem: Problem, answers: int) -> Fault | None:
        """Make sure that key, model and address are good, by another call's answer or by a control call's.

        Raises:
            EngineUnavailable: when the control call is turned down as the call was.
        """
        async with self._asking:
            if self._server.answers > answers:
                return None
            reply = await self._ask({}, frozenset(), self._sampling.length_key)
            if isinstance(reply, Problem) and reply.status == 400:
                other = self._sampling.other_length_key(self._sampling.length_key)
                reply = await self._ask({}, frozenset(), other)
        if isinstance(reply, Fault):
            return reply
        if isinstance(reply, Problem) and reply.status in ABOUT_ONE_CALL:
            raise self._server.key_refused(reply) if reply.status == 403 else self._server.not_served(reply)
        if isinstance(reply, Problem) and problem.status not in ABOUT_ONE_CALL:
            raise EngineUnavailable(
                f"the server at {self._server.base} declines every call to `{self._name}` by now: {problem.message}. "
                "Settle that and run the same command again, recorded answers are kept"
            )
        return None
