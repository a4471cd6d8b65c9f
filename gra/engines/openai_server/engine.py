"""The engine for OpenAI-compatible servers: `vllm serve`, llama.cpp, Ollama, and paid services.

Whatever a server does becomes a completion, a typed fault, or, when no call can ever succeed, one clear
error that ends the run resumably. What it understands is found out by asking, and remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from gra.config.problems import did_you_mean
from gra.core.errors import EngineUnavailable
from gra.engines.openai_server import requests as dialect
from gra.engines.openai_server.client import Declined, Reply, Server, ServerSettings
from gra.engines.types import Call, Choice, Completion, EngineStats, Fault, Likelihood

__all__ = ["OpenAIEngine", "ServerSettings"]

# So many calls declined and none ever taken: the recipe asks for something this server does not do.
_ALL_DECLINED = 10


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
        self._context: int | None = None
        self._length_key = "max_tokens"
        self._known: dict[str, int] = {}  # which form of a question this server takes
        self._label_ids: dict[tuple[str, ...], dict[str, int] | None] = {}
        self._declined = 0

    async def start(self) -> None:
        """Connect, and learn what the server is.

        Raises:
            EngineUnavailable: when nobody answers there, the key is refused, or the model is not served.
        """
        async with self._starting:
            if self.server.connected:
                return
            begun, model = time.monotonic(), self.settings.model
            cards = await self.server.connect()
            self._vllm = any(card.get("owned_by") == "vllm" for card in cards.values())
            if self._vllm and model not in cards:
                await self.server.close()
                hint = did_you_mean(model, list(cards)) or f"; it serves {', '.join(cards)}"
                raise EngineUnavailable(f"the server at {self.server.base} does not serve `{model}`{hint}")
            limit = cards.get(model, {}).get("max_model_len")
            self._context = limit if isinstance(limit, int) else None
            self.stats.starts += 1
            self.stats.started_in = time.monotonic() - begun

    async def unload(self) -> None:
        """Close the connections; there is no memory to give back."""
        await self.server.close()

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call.

        Raises:
            EngineUnavailable: when no call can succeed: key refused, no such model, no answer for too long, or a
                kind of question that this server cannot answer at all.
        """
        if not self.server.connected:
            await self.start()
        self.server.be_patient()
        begun = time.monotonic()
        try:
            reply = await (self._likelihood(call) if isinstance(call.output, Likelihood) else self._chat(call))
        except dialect.Garbled as error:
            return Fault("error", f"{self.server.base} answered something that cannot be read: {error}")
        if isinstance(reply, Completion):
            self.stats.calls += 1
            self.stats.prompt_tokens += reply.prompt_tokens
            self.stats.completion_tokens += reply.completion_tokens
            self.stats.cached_tokens += reply.cached_tokens
            self.stats.busy_seconds += time.monotonic() - begun
        return reply

    def overdue(self, seconds: float) -> None:
        """A server that hangs may be asked too much."""
        self.gate.failed(self.gate.now() - seconds, overloaded=True)

    async def _chat(self, call: Call) -> Completion | Fault:
        """Go down the forms of the question until the server takes one, and remember which."""
        ids = await self._first_tokens(call.output.labels) if isinstance(call.output, Choice) else None
        if isinstance(ids, Fault):
            return ids
        forms = dialect.forms(call, tuple(ids.values()) if ids else None)
        question = dialect.question(call)
        reason = ""
        for place in range(self._known.get(question, 0), len(forms)):
            reply = await self._sized(call, forms[place])
            if isinstance(reply, Fault):
                return reply
            if isinstance(reply, Declined):
                reason = reason or reply.message
                continue
            if not forms[place].enough:
                raise EngineUnavailable(self._no_probabilities())
            try:
                completion = dialect.read_completion(call, reply, ids)
            except dialect.NoProbabilities:
                raise EngineUnavailable(self._no_probabilities()) from None
            self._known[question] = place
            return completion
        return self._declines(reason)

    async def _sized(self, call: Call, form: dialect.RequestForm) -> Reply | Declined | Fault:
        """One request; OpenAI's newer models want the length limit under its newer name."""
        body = dialect.payload(call, form, self.settings.model, self._length_key)
        reply = await self.server.post("/chat/completions", body)
        if isinstance(reply, Declined) and reply.param == "max_tokens" and reply.code == "unsupported_parameter":
            self._length_key = "max_completion_tokens"
            body = dialect.payload(call, form, self.settings.model, self._length_key)
            reply = await self.server.post("/chat/completions", body)
        return reply

    async def _likelihood(self, call: Call) -> Completion | Fault:
        """vLLM's probabilities of the prompt's tokens, the answer being part of the prompt."""
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
        if self._context is not None and len(prompt) + len(answer) >= self._context:
            message = f"the prompt has {len(prompt) + len(answer)} tokens and the context holds {self._context}"
            return Fault("error", message, permanent=True)
        body = dialect.likelihood_payload(self.settings.model, prompt, answer)
        reply = await self.server.post("/completions", body)
        if isinstance(reply, Fault):
            return reply
        if isinstance(reply, Declined):
            return self._declines(reply.message)
        return dialect.read_likelihood(call, reply, prompt, answer)

    async def _first_tokens(self, labels: tuple[str, ...]) -> dict[str, int] | Fault | None:
        """The first token of each label where the server shows its tokenizer; None elsewhere."""
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
        """Token ids from vLLM's own endpoint; None where there is none."""
        if not self._vllm:
            return None
        reply = await self.server.post_beside("/tokenize", {"model": self.settings.model, **request})
        if isinstance(reply, Declined):
            return self._declines(reply.message)
        if isinstance(reply, Fault) or reply is None:
            return reply
        tokens = reply.get("tokens")
        return tokens if isinstance(tokens, list) else None

    def _declines(self, reason: str) -> Fault:
        """The call is impossible here; when no call ever was possible, the run is."""
        self._declined += 1
        if self._declined >= _ALL_DECLINED and not self.stats.calls:
            raise EngineUnavailable(
                f"the server at {self.server.base} declined the first {self._declined} calls to `{self.name}`: {reason}"
            )
        return Fault("error", f"the server declined the call: {reason}", permanent=True)

    def _no_probabilities(self) -> str:
        return (
            f"`{self.name}` is asked for probabilities of labels, and the server at {self.server.base} gives none "
            "(`logprobs`, `top_logprobs`); set `ask: integers` for this member, or serve it with vLLM"
        )
