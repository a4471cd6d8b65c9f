"""Run calls on OpenAI-compatible servers: `vllm serve`, llama.cpp, Ollama, and paid services.

Every reply becomes a completion or a typed fault. When no call can succeed, one sentence ends the run resumably. What a
server takes is found out by asking, and remembered. The meaning of an error is never read from its wording. A short
control call shows whether it is about the call, or about key, model or settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from gra.config.problems import did_you_mean
from gra.core.errors import EngineUnavailable
from gra.core.text.thinking import split_thinking
from gra.engines.openai_server import requests
from gra.engines.openai_server.bodies import MIB
from gra.engines.openai_server.client import Server, ServerSettings
from gra.engines.openai_server.control import ABOUT_ONE_CALL, ControlCalls
from gra.engines.openai_server.negotiation import FormChoice, SamplingChoice
from gra.engines.openai_server.replies import (
    ModelCard,
    NoProbabilities,
    Problem,
    read_chat,
    read_token_ids,
)
from gra.engines.outcomes import read_value, recorded_text
from gra.engines.types import Call, Choice, Completion, EngineStats, Fault, Json, Likelihood, Reward

__all__ = ["OpenAIEngine", "ServerSettings"]

# Calls declined with none ever taken (the recipe asks for what the server does not do), or in a row.
_ALL_DECLINED = 10
_REFUSAL_CODES = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_TOO_LONG_CODES = {"context_length_exceeded", "string_above_max_length", "request_too_large"}
_WITHHELD_CODES = {"json_validate_failed"}  # Groq: the answer did not satisfy the schema.

_HINTED = 200  # models that are compared with a name which is not served; a server may list any number

# The most bytes of a reply for a token of the answer, and for a scored token of the prompt.
_ANSWER_BYTES = 256
_SCORED_BYTES = 1024


class OpenAIEngine:
    """One model behind an OpenAI-compatible server."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        """Read the key from the environment.

        Raises:
            RecipeError: when the variable that should hold the key is not set.
        """
        self.name = name
        self.concurrency = settings.concurrency
        self.memory_gb = 0.0
        self.stats = EngineStats()
        self.settings = settings
        self.server = Server(settings)
        self.gate = self.server.gate
        self._starting = asyncio.Lock()
        self._vllm = False
        self._cards: dict[str, ModelCard] = {}
        self._context: int | None = None
        self._forms = FormChoice()
        self._sampling = SamplingChoice()
        self._control = ControlCalls(name, self.server, self._sampling)
        self._label_ids: dict[tuple[str, ...], dict[str, int] | None] = {}
        self._declined = 0  # calls in a row
        self._reported: set[str] = set()  # settings that were not taken
        self._gives_probabilities = False

    async def start(self) -> None:
        """Connect, and learn what the server is.

        Raises:
            EngineUnavailable: when no server answers there, the key is refused, or the model is not served.
        """
        async with self._starting:
            if self.server.connected:
                return
            begun, model = time.monotonic(), self.settings.model
            self._cards = await self.server.connect()
            self._vllm = any(card.owner == "vllm" for card in self._cards.values())
            if self._vllm and model not in self._cards:
                await self.server.close()
                names = [self.server.clean(name) for name in islice(self._cards, _HINTED)]
                hint = did_you_mean(model, names) or f"; it serves {', '.join(names[:10])}"
                raise EngineUnavailable(f"the server at {self.server.base} does not serve `{model}`{hint}")
            card = self._cards.get(model)
            self._context = card.max_model_len if card else None
            self.stats.starts += 1
            self.stats.started_in = time.monotonic() - begun

    async def unload(self) -> None:
        """Close the connections; there is no memory to give back."""
        await self.server.close()

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call.

        Raises:
            EngineUnavailable: When no call can succeed: the key is refused, the account is used up, or the model is
                not served. Also when no answer comes for too long, or the server cannot answer such calls at all.
        """
        if isinstance(call.output, Reward):
            return Fault("error", f"`{self.name}` is behind a server, which gives no rewards", permanent=True)
        if not self.server.connected:
            await self.start()
        self.server.be_patient()
        begun = time.monotonic()
        reply = await (self._likelihood(call) if isinstance(call.output, Likelihood) else self._chat(call))
        if isinstance(reply, Completion):
            reply = self._cleaned(reply)
            self._declined = 0
            self.stats.calls += 1
            self.stats.prompt_tokens += reply.prompt_tokens
            self.stats.completion_tokens += reply.completion_tokens
            self.stats.cached_tokens += reply.cached_tokens
            self.stats.busy_seconds += time.monotonic() - begun
        return reply

    def _cleaned(self, reply: Completion) -> Completion:
        """Return a completion without the key, also where its pieces would meet later.

        A server may divide the key by tags of thinking, which are taken out of a recorded text.
        """
        clean = self.server.clean_answer
        reply = replace(reply, text=clean(reply.text), thinking=clean(reply.thinking))
        apart = split_thinking(recorded_text(reply))
        thinking, text = map(clean, apart)
        return reply if (thinking, text) == apart else replace(reply, text=text, thinking=thinking)

    def overdue(self, seconds: float) -> None:
        """Count a call that was given up: a server that hangs may be asked too much."""
        self.gate.failed(self.gate.now() - seconds, overloaded=True)

    # --- chat completions ---------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> Completion | Fault:
        """Put a call in the form that works here, or in the next ones where the server declines it."""
        ids = await self._first_tokens(call.output.labels) if isinstance(call.output, Choice) else None
        if isinstance(ids, Fault):
            return ids
        forms = requests.forms(call, tuple(ids.values()) if ids else None)
        question = requests.question(call)
        declined: list[tuple[int, Problem]] = []
        without_probabilities = False
        for place in self._forms.order(question, len(forms)):
            try:
                reply = await self._negotiated(call, forms[place], ids)
            except NoProbabilities:
                without_probabilities = True
                self._forms.answered(question, place, obeyed=False)
                continue
            if isinstance(reply, Fault):
                return reply
            if isinstance(reply, Problem):
                declined.append((place, reply))
                if reply.code.lower() in _TOO_LONG_CODES:
                    break
                continue
            if not forms[place].enough:
                without_probabilities = True
                continue
            for earlier, problem in declined:
                named = problem.param.partition(".")[0] in forms[earlier].extra
                self._forms.passed_over(question, earlier, named=named)
            self._learn(call, question, place, reply)
            return reply
        if without_probabilities:
            return self._no_probabilities()
        return await self._declines(declined[0][1])

    def _learn(self, call: Call, question: str, place: int, reply: Completion) -> None:
        """Note whether an answer has the shape that its form asks for."""
        if reply.finish != "stop" and isinstance(call.output, Json):
            return  # cut off or refused: nothing is known of the form
        obeyed = True
        if isinstance(call.output, Json):
            try:
                read_value(call.output.schema, reply.text)
            except ValueError:
                obeyed = False
        elif isinstance(call.output, Choice):
            self._gives_probabilities = True
        self._forms.answered(question, place, obeyed=obeyed)

    async def _negotiated(
        self, call: Call, form: requests.RequestForm, ids: Mapping[str, int] | None
    ) -> Completion | Problem | Fault:
        """Send a call in one form; where the server does not take the sampling settings, find out which it takes."""
        fields = requests.sampling_fields(call)
        omitted, length_key = self._sampling.omitted(fields), self._sampling.length_key
        reply = await self._sent(call, form, ids, omitted, length_key)
        while isinstance(reply, Problem) and reply.code.lower() not in _TOO_LONG_CODES:
            if reply.param in fields.keys() - omitted:
                omitted |= {reply.param}
            elif reply.param == length_key == self._sampling.length_key:
                length_key = self._sampling.other_length_key(length_key)
            elif reply.param:
                return reply  # it is about something else
            else:
                found = await self._control.find_settings(fields)
                if isinstance(found, Fault):
                    return found
                if found is None or found == (omitted, length_key):
                    return reply
                omitted, length_key = found
            reply = await self._sent(call, form, ids, omitted, length_key)
        if isinstance(reply, Completion):
            self._adopt(fields, omitted, length_key)
        return reply

    def _adopt(self, fields: Mapping[str, float], omitted: frozenset[str], length_key: str) -> None:
        """Remember the settings that were taken, and report those that were not."""
        self._sampling.answered(fields, omitted, length_key)
        settings = ", ".join(f"{name} {fields[name]:g}" for name in sorted(omitted))
        if settings and settings not in self._reported:
            self._reported.add(settings)
            self.stats.notes.append(
                f"the server of `{self.name}` does not take {settings}, so its own default held; set it to null in "
                "`sampling` if that is what you want"
            )

    async def _sent(
        self,
        call: Call,
        form: requests.RequestForm,
        ids: Mapping[str, int] | None,
        omitted: frozenset[str],
        length_key: str,
    ) -> Completion | Problem | Fault:
        """Send one chat completion request."""
        body = requests.payload(call, form, self.settings.model, length_key, omitted)
        limit = MIB + _ANSWER_BYTES * call.sampling.max_tokens
        answers = self.server.answers
        reply = await self.server.post("/chat/completions", body, read_chat, limit)
        if isinstance(reply, Problem):
            return await self._about(call, reply, answers)
        if isinstance(reply, Fault):
            return reply
        return requests.read_completion(call, reply, ids)

    async def _about(self, call: Call, problem: Problem, answers: int) -> Completion | Problem | Fault:
        """Return what a declined call means: a refusal of this call, or a form that is not taken.

        Raises:
            EngineUnavailable: when a control call is turned down as well.
        """
        codes = {problem.code.lower(), problem.kind.lower()}
        if codes & _REFUSAL_CODES:
            return requests.refused(call)
        if codes & _WITHHELD_CODES:
            return requests.undone(call, problem.failed_generation)
        if problem.status not in ABOUT_ONE_CALL:
            return problem
        if problem.status == 404 and problem.code == "model_not_found" and self.settings.model not in self._cards:
            raise self.server.not_served(problem)
        fault = await self._control.confirm(problem, answers)
        if fault is not None:
            return fault
        return requests.refused(call) if problem.status in (403, 451) else problem

    async def _declines(self, problem: Problem) -> Fault:
        """Return the fault of a call that is impossible here; where every call is, the run is."""
        self._declined += 1
        if self._declined >= _ALL_DECLINED and not self.stats.calls:
            raise EngineUnavailable(
                f"the server at {self.server.base} declined the first {self._declined} calls to `{self.name}`: "
                f"{problem.message}"
            )
        if self._declined >= _ALL_DECLINED:
            self._declined = 0
            if (fault := await self._control.confirm(problem, self.server.answers)) is not None:
                return fault
        return Fault("error", f"the server declined the call: {problem.message}", permanent=True)

    # --- likelihoods and labels ---------------------------------------------------------------------------------------

    async def _likelihood(self, call: Call) -> Completion | Fault:
        """Read vLLM's probabilities of the prompt's tokens, the answer being part of the prompt."""
        assert isinstance(call.output, Likelihood)
        messages = [{"role": role, "content": content} for role, content in call.messages]
        prompt = await self._tokenize({"messages": messages, "add_generation_prompt": True})
        answer = await self._tokenize({"prompt": call.output.answer, "add_special_tokens": False})
        if isinstance(prompt, Fault):
            return prompt
        if isinstance(answer, Fault):
            return answer
        if prompt is None or answer is None:
            raise EngineUnavailable(
                f"`{self.name}` is asked by likelihood, and the server at {self.server.base} does not give the "
                "probability of a given text (vLLM's does); set `ask: integers` for this member, or serve it with vLLM"
            )
        tokens = len(prompt) + len(answer)
        if self._context is not None and tokens >= self._context:
            message = f"the prompt has {tokens} tokens and the context holds {self._context}"
            return Fault("error", message, permanent=True)
        body = requests.likelihood_payload(self.settings.model, prompt, answer)
        answers = self.server.answers
        reply = await self.server.post(
            "/completions",
            body,
            lambda content: requests.read_likelihood(call, content, len(prompt), answer),
            MIB + _SCORED_BYTES * tokens,
        )
        if isinstance(reply, Problem):
            reply = await self._about(call, reply, answers)
        return await self._declines(reply) if isinstance(reply, Problem) else reply

    async def _first_tokens(self, labels: tuple[str, ...]) -> dict[str, int] | Fault | None:
        """Return the first token of each label where the server shows its tokenizer; None elsewhere."""
        if labels in self._label_ids:
            return self._label_ids[labels]
        found: dict[str, int] = {}
        for label in labels:
            tokens = await self._tokenize({"prompt": label, "add_special_tokens": False})
            if isinstance(tokens, Fault):
                return tokens
            if tokens:
                found[label] = tokens[0]
        known = len(found) == len(labels)
        if known and len(set(found.values())) < len(labels):
            raise EngineUnavailable(
                f"the labels {list(labels)} do not differ in their first token under the tokenizer of `{self.name}`; "
                "set another `ask` for this member"
            )
        self._label_ids[labels] = found if known else None
        return self._label_ids[labels]

    async def _tokenize(self, request: Mapping[str, Any]) -> list[int] | Fault | None:
        """Return token ids from vLLM's own endpoint; None where there is none."""
        if not self._vllm:
            return None
        body = {"model": self.settings.model, **request}
        reply = await self.server.post_beside("/tokenize", body, read_token_ids, MIB + 64 * len(str(request)))
        if isinstance(reply, Problem):
            return None if reply.status in (404, 405) else await self._declines(reply)
        return reply

    def _no_probabilities(self) -> Fault:
        """Return the fault of a choice that was answered without probabilities in every form.

        Raises:
            EngineUnavailable: when the server never gave any.
        """
        if self._gives_probabilities:
            return Fault("error", f"{self.server.base} sent an answer without probabilities")
        raise EngineUnavailable(
            f"`{self.name}` is asked for probabilities of labels, and the server at {self.server.base} gives none "
            "(`logprobs`, `top_logprobs`); set `ask: integers` for this member, or serve it with vLLM"
        )
