"""Serve one checkpoint of a student as an engine that says how likely a given answer is.

These calls go through the broker and the ledger as all others do. A second curation asks none of them again.
The tokens are those of training: the chat template, the answer, and the stop token.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from gra.core.errors import DataError, EngineUnavailable
from gra.core.hashing import digest, file_digest
from gra.engines.types import Call, Completion, EngineStats, Fault, Likelihood, ModelId
from gra.models.weights import widened
from gra.training.curation.students import TrustedStudent
from gra.training.data.dataset import Row
from gra.training.data.tokenize import Encoded, tokenized

_WEIGHTS = (".safetensors", ".bin")


def checkpoint_model(student: TrustedStudent, checkpoint: Path) -> ModelId:
    """Return what identifies a checkpoint's answers in the ledger: the weights it began from and its own."""
    files = sorted(file for file in checkpoint.iterdir() if file.suffix in _WEIGHTS)
    weights = digest({file.name: file_digest(file) for file in files if "optimizer" not in file.name})
    name = f"{student.folder.name}/{checkpoint.name}"
    return ModelId(name, student.identity, student.template, f"checkpoint:{weights}")


class CheckpointEngine:
    """Answer calls for a likelihood with one checkpoint, one at a time, on the GPU where there is one."""

    def __init__(self, student: TrustedStudent, checkpoint: Path, name: str) -> None:
        self.name = name
        self.concurrency = 1
        self.memory_gb = 0.0
        self.stats = EngineStats()
        self._student, self._checkpoint = student, checkpoint
        self._loaded: tuple[Any, Any] | None = None

    async def start(self) -> None:
        """Load the weights."""
        begun = time.monotonic()
        self._loaded = await asyncio.to_thread(self._load)
        self.stats.starts += 1
        self.stats.started_in = time.monotonic() - begun

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        from gra.models.chat import load_tokenizer

        disable_progress_bar()
        adapted = (self._checkpoint / "adapter_config.json").is_file()
        weights = self._student.base if adapted else self._checkpoint
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                weights, dtype=getattr(torch, self._student.dtype), use_safetensors=True, local_files_only=True
            )
            if adapted:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, self._checkpoint)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise EngineUnavailable(
                f"{self._checkpoint} cannot be loaded ({error}); train the student again"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = widened(model, self._student.dtype, on_gpu=device == "cuda")
        return load_tokenizer(self._student.folder), model.to(device).eval()

    async def submit(self, call: Call) -> Completion | Fault:
        """Return the log-probability of the answer in nats, and its tokens, the stop token included."""
        assert self._loaded is not None
        assert isinstance(call.output, Likelihood)
        try:
            return await asyncio.to_thread(self._weigh, *self._loaded, call)
        except DataError as misfit:  # the chat template cannot write the row, and never will
            return Fault("error", str(misfit), permanent=True)

    def _weigh(self, tokenizer: Any, model: Any, call: Call) -> Completion | Fault:
        import torch

        assert isinstance(call.output, Likelihood)
        begun = time.monotonic()
        prompt = tuple({"role": role, "content": content} for role, content in call.messages)
        row = Row(prompt, ({"role": "assistant", "content": call.output.answer},), call.candidate)
        _, asked, (answer,) = next(tokenized(tokenizer, [row], Encoded(), 0.0))
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(asked) + len(answer) > room:
            message = f"the row has {len(asked) + len(answer)} tokens and the student reads {room}"
            return Fault("error", message, permanent=True)
        ids = torch.tensor([asked + answer], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
        wanted = torch.tensor(answer, device=logits.device)
        chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
        self.stats.calls += 1
        self.stats.prompt_tokens += ids.shape[1]
        return Completion(
            "", "stop", ids.shape[1], 0, seconds=time.monotonic() - begun,
            scores={"logprob": float(chosen.sum()), "tokens": float(len(answer))},
        )  # fmt: skip

    async def unload(self) -> None:
        """Free the memory."""
        self._loaded = None
