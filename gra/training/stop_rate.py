"""Measure whether a student stops: the share of greedy answers to held-out prompts that end by themselves.

The loss does not show this. A student that did not learn the stop token answers well, and then repeats itself up to the
length limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gra.models.head import feed_contiguous
from gra.training.data.tokenize import prompt_ids

if TYPE_CHECKING:
    from gra.training.data.dataset import Row


def measure_stop_rate(model: Any, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> dict[str, Any]:
    """Answer the prompts of `rows` greedily, in one batch of at most `max_new_tokens` tokens.

    Returns:
        `prompts`, `stopped`, `share`, `max_new_tokens`, and the first `answers` with their prompts.
    """
    import torch

    prompts = [prompt_ids(tokenizer, row.prompt) for row in rows]
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=model.device)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    stops = _stop_ids(model, tokenizer)
    model.eval()
    hook = feed_contiguous(model)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=seen,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )[:, width:].tolist()
    hook.remove()
    answers = [_answer(tokenizer, row, tokens, stops) for row, tokens in zip(rows, output, strict=True)]
    stopped = sum(answer["stopped"] for answer in answers)
    return {
        "prompts": len(rows),
        "stopped": stopped,
        "share": round(stopped / len(rows), 4),
        "max_new_tokens": max_new_tokens,
        "answers": answers[:5],
    }


def set_stop_tokens(model: Any, tokenizer: Any) -> None:
    """Make generation stop on the trained token, besides those the model already stops on."""
    model.generation_config.eos_token_id = _stop_ids(model, tokenizer)
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    known = model.generation_config.eos_token_id
    others = [] if known is None else [known] if isinstance(known, int) else known
    return [tokenizer.eos_token_id, *(token for token in others if token != tokenizer.eos_token_id)]


def _answer(tokenizer: Any, row: Row, tokens: list[int], stops: list[int]) -> dict[str, Any]:
    end = next((place for place, token in enumerate(tokens) if token in stops), None)
    return {
        "prompt": row.prompt[-1]["content"],
        "answer": tokenizer.decode(tokens[:end], skip_special_tokens=True),
        "stopped": end is not None,
    }
