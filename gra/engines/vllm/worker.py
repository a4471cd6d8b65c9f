"""Run vLLM as the child process of the vLLM engine: `python -m gra.engines.vllm.worker SOCKET_FD`.

The process reads one line of settings and loads the model and its adapters. It answers one JSON line per call or order
(sleep, wake). Names that vLLM has renamed between releases are used in this folder only, and asserted by
`tests/engines/vllm/test_surface.py`. The process ends when the socket closes, so that it never outlives its parent.
In every case vLLM's own processes end with it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from gra.core.processes.rendering import limited_rendering
from gra.engines.vllm.start import engine_arguments, start_engine

_MAX_LINE = 64 * 2**20
# A text whose log-likelihood is measured before a model sleeps and after it wakes. The tolerance is in nats per token.
# Rounding moves it by thousandths; wrong weights move it by whole nats.
_REFERENCE_TEXT = (
    "The capital of France is Paris, and two and two make four. Water boils at one hundred degrees Celsius."
)
_REFERENCE_TOLERANCE = 0.05
_BEFORE_ALL_CALLS = -1  # vLLM's priority of the reference text; calls have 0
_MOMENT_S = 0.05


class Worker:
    """Hold one loaded model and its tokenizer."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from transformers import AutoTokenizer
        from vllm.lora.request import LoRARequest

        self.engine = start_engine(engine_arguments(settings))
        self.tokenizer = AutoTokenizer.from_pretrained(settings["path"], local_files_only=True, trust_remote_code=False)
        self.max_model_len = int(settings["max_model_len"])
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.adapters = {
            name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
            for number, (name, path) in enumerate(settings["adapters"].items(), start=1)
        }
        self.said: list[float] = []  # Log-likelihoods of the reference text after loading.
        self.well = asyncio.Event()  # Not set while it wakes, when weights may be missing.
        self.well.set()

    async def load_adapters(self) -> None:
        """Read every adapter now, so that a misfit is found before any call."""
        for adapter in self.adapters.values():
            try:
                await self.engine.add_lora(adapter)
            except Exception as error:
                raise ValueError(f"the adapter {adapter.lora_path} cannot be served: {error}") from error

    async def remember(self) -> None:
        """Measure the reference text after loading, to compare with after each sleep."""
        self.said = await self.reference_scores()

    async def sleep(self, level: int) -> None:
        """Free the accelerator's memory; calls in flight are paused and keep their tokens."""
        await self.engine.sleep(level=level, mode="keep")

    async def wake(self, level: int) -> None:
        """Wake from sleep; raise RuntimeError when the model is not what it was."""
        self.well.clear()
        # Sent before the calls resume, or it would wait for one of their places.
        measuring = asyncio.create_task(self.reference_scores())
        await asyncio.sleep(_MOMENT_S)
        if level == 1:
            await self.engine.wake_up()
        else:  # The weights are gone. First their memory, then the weights, then the rest of the memory.
            await self.engine.wake_up(tags=["weights"])
            await self.engine.collective_rpc("reload_weights")
            for adapter in self.adapters.values():
                await self.engine.remove_lora(adapter.lora_int_id)
            await self.load_adapters()
            await self.engine.wake_up(tags=["kv_cache"])  # After this the engine resumes its calls.
        now_scores = await measuring
        if not all(abs(now - then) <= _REFERENCE_TOLERANCE for now, then in zip(now_scores, self.said, strict=True)):
            raise RuntimeError(
                f"it gives a fixed text {now_scores} nats a token and gave it {self.said} before it slept"
            )
        self.well.set()

    async def reference_scores(self) -> list[float]:
        """Return the log-likelihood of a fixed text in nats per token, for the model and with each adapter."""
        return await asyncio.gather(*map(self._reference_score, (None, *self.adapters.values())))

    async def _reference_score(self, adapter: Any) -> float:
        tokens = self.tokenizer.encode(_REFERENCE_TEXT)[: self.max_model_len - 1]
        params = sampling_params({}, 1, [], True)
        final = await self._say(tokens, params, f"reference-{uuid.uuid4()}", adapter, _BEFORE_ALL_CALLS)
        scored = zip(tokens[1:], final.prompt_logprobs[1:], strict=True)
        return sum(float(at[token].logprob) for token, at in scored) / (len(tokens) - 1)

    async def _say(self, tokens: list[int], params: Any, name: str, adapter: Any, priority: int = 0) -> Any:
        """Return vLLM's last output for a prompt."""
        from vllm.inputs import TokensPrompt

        prompt, final = TokensPrompt(prompt_token_ids=tokens), None
        async for output in self.engine.generate(prompt, params, name, lora_request=adapter, priority=priority):
            final = output
        assert final is not None
        return final

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation under the model's chat template, ready for its answer."""
        with limited_rendering():
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def label_tokens(self, labels: list[str]) -> dict[str, int]:
        """Return the first token of each label; raise ValueError when two labels share it."""
        first = {label: self.tokenizer.encode(label, add_special_tokens=False)[0] for label in labels}
        if len(set(first.values())) < len(labels):
            raise ValueError(f"the labels {labels} do not differ in their first token under this tokenizer")
        return first

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one call.

        Raises:
            ValueError: the call asks for what this model cannot give.
        """
        if "reward" in request:
            raise ValueError("this model writes text and gives no rewards")
        tokens = self.prompt_tokens(request["messages"])
        given = self.tokenizer.encode(request.get("likelihood", ""), add_special_tokens=False)
        room = self.max_model_len - len(tokens) - len(given)
        if room < 1:
            message = f"the prompt has {len(tokens) + len(given)} tokens and the context holds {self.max_model_len}"
            return {"id": request["id"], "fault": message, "permanent": True}
        labels = self.label_tokens(request.get("choice", []))
        begun = time.monotonic()
        params = sampling_params(request, room, list(labels.values()), bool(given))
        final = await self._say(tokens + given, params, str(request["id"]), self.adapters.get(request["adapter"]))
        await self.well.wait()
        said = final.outputs[0]
        if said.finish_reason not in ("stop", "length"):  # aborted, for one
            message = f"vLLM ended the answer with finish_reason {said.finish_reason!r}"
            return {"id": request["id"], "fault": message, "permanent": False}
        scores: dict[str, float] = {}
        if labels:
            found = said.logprobs[0]
            scores = {label: math.exp(found[t].logprob) if t in found else 0.0 for label, t in labels.items()}
        elif given:
            positions = zip(given, final.prompt_logprobs[len(tokens) :], strict=True)
            scores = {"logprob": sum(at[token].logprob for token, at in positions), "tokens": float(len(given))}
        return {
            "id": request["id"],
            "completion": {
                "text": "" if given else said.text,
                "finish": "length" if said.finish_reason == "length" and not given else "stop",
                "prompt_tokens": len(tokens) + len(given),
                "completion_tokens": len(said.token_ids),
                "cached_tokens": final.num_cached_tokens or 0,
                "seconds": time.monotonic() - begun,
                "scores": scores,
            },
        }


class RewardWorker(Worker):
    """Hold one loaded reward model or classifier, which reads conversations and gives one number for each."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from transformers import AutoConfig

        super().__init__(settings)
        config = AutoConfig.from_pretrained(settings["path"], local_files_only=True, trust_remote_code=False)
        self.padding = config.get_text_config().pad_token_id

    async def _reference_score(self, adapter: Any) -> float:
        tokens = self.tokenizer.encode(_REFERENCE_TEXT)[: self.max_model_len]
        return (await self._reward(tokens, f"reference-{uuid.uuid4()}", _BEFORE_ALL_CALLS))[0]

    async def _reward(self, tokens: list[int], name: str, priority: int = 0) -> tuple[float, int]:
        """Return the reward of a text, and how many of its tokens were cached."""
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        # The logits themselves: the default squeezes a reward into the range from 0 to 1.
        params = PoolingParams(task="classify", use_activation=False)
        prompt, final = TokensPrompt(prompt_token_ids=tokens), None
        async for output in self.engine.encode(prompt, params, name, priority=priority):
            final = output
        assert final is not None
        return reward_of(final.outputs.data.flatten().tolist()), final.num_cached_tokens or 0

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Score the answer that closes a conversation.

        Raises:
            ValueError: the call asks for text.
        """
        if "reward" not in request:
            raise ValueError("this is a reward model, which writes no text")
        messages = [*request["messages"], {"role": "assistant", "content": request["reward"]}]
        with limited_rendering():
            encoded = self.tokenizer.apply_chat_template(messages, return_dict=True)
        tokens = scored_tokens(list(encoded["input_ids"]), self.padding)
        if len(tokens) > self.max_model_len:
            message = f"the conversation has {len(tokens)} tokens and the context holds {self.max_model_len}"
            return {"id": request["id"], "fault": message, "permanent": True}
        begun = time.monotonic()
        reward, cached = await self._reward(tokens, str(request["id"]))
        await self.well.wait()
        return {
            "id": request["id"],
            "completion": {
                "text": "",
                "finish": "stop",
                "prompt_tokens": len(tokens),
                "completion_tokens": 0,
                "cached_tokens": cached,
                "seconds": time.monotonic() - begun,
                "scores": {"reward": reward},
            },
        }


def reward_of(logits: list[float]) -> float:
    """Return the logit of a reward model, or the log-odds of the second label of a classifier with two.

    Raises:
        ValueError: there are more labels.
    """
    if len(logits) > 2:
        raise ValueError(f"the classifier has {len(logits)} labels; a reward is read from 1 or 2")
    return logits[0] if len(logits) == 1 else logits[1] - logits[0]


def scored_tokens(tokens: list[int], padding: int | None) -> list[int]:
    """Return the tokens up to the one whose state is scored: Transformers reads the last that is no padding.

    Many models pad with the token that ends a turn, and vLLM would read that one.
    """
    kept = len(tokens)
    while kept > 1 and tokens[kept - 1] == padding:
        kept -= 1
    return tokens[:kept]


def sampling_params(request: dict[str, Any], room: int, labels: list[int], likelihood: bool) -> Any:
    """Return vLLM's settings for one call; `room` is the rest of the context, in tokens."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    options: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY}
    if labels:
        options |= {"max_tokens": 1, "temperature": 0.0, "allowed_token_ids": labels, "logprobs": len(labels)}
    elif likelihood:
        options |= {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    else:
        sampling = request["sampling"]
        names = ("temperature", "top_p", "repetition_penalty")
        options |= {name: sampling[name] for name in names if sampling[name] is not None}
        options["max_tokens"] = min(sampling["max_tokens"], room)
    if "json" in request:
        options["structured_outputs"] = StructuredOutputsParams(json=request["json"])
    return SamplingParams(**options)


async def serve(channel: socket.socket) -> None:
    """Load the model, then answer until the socket closes."""
    reader, writer = await asyncio.open_connection(sock=channel, limit=_MAX_LINE)

    def send(message: dict[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    settings = json.loads(await reader.readline())
    try:
        worker = (RewardWorker if settings.get("rewards") else Worker)(settings)
        await worker.load_adapters()
        if settings["sleep_level"]:
            await worker.remember()
    except Exception as error:  # any failure of vLLM, which the parent turns into one sentence
        send({"ready": False, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        await writer.drain()
        raise
    send({"ready": True})

    async def obey(order: dict[str, Any]) -> dict[str, Any]:
        await {"sleep": worker.sleep, "wake": worker.wake}[order["do"]](order["level"])
        return {"id": order["id"]}

    async def handle(request: dict[str, Any]) -> None:
        try:
            reply = await worker.answer(request) if "do" not in request else await obey(request)
        except Exception as error:
            if worker.engine.errored:
                raise SystemExit(1) from error
            message = f"{type(error).__name__}: {error}"
            reply = {"id": request["id"], "fault": message, "permanent": isinstance(error, ValueError)}
        send(reply)
        worker.tasks.pop(request["id"], None)

    while line := await reader.readline():
        request = json.loads(line)
        if "abort" in request:
            if task := worker.tasks.pop(request["abort"], None):
                task.cancel()
        else:
            worker.tasks[request["id"]] = asyncio.create_task(handle(request))


def main() -> None:
    """Serve on the inherited socket, then end every process of the group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = _guard() if os.getsid(0) == os.getpid() else None  # only for a process group of its own
    try:
        asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
    finally:
        if guard is not None:
            os.killpg(os.getpid(), signal.SIGKILL)


def _guard() -> subprocess.Popen[bytes]:
    """Start a shell that kills the process group when this process is gone, also by SIGKILL.

    vLLM's engine core does not notice that its parent is gone, and keeps its memory. The shell reads a pipe whose other
    end is held by this process alone.
    """
    theirs, ours = os.pipe()
    ends = [ours]
    os.register_at_fork(after_in_child=lambda: os.close(ends.pop()) if ends else None)
    guard = subprocess.Popen(["/bin/sh", "-c", "read -r line; kill -9 0"], stdin=theirs)
    os.close(theirs)
    return guard


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    main()
