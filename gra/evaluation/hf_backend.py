"""Answer prompts greedily and weigh choices with a causal language model, in batches on one device.

It needs torch, so it is imported only when a model is asked. A question is computed once for all its choices.
The vocabulary is computed at the positions of the choices only, which is quick for small models with large
vocabularies. The reason why an answer ended is recorded, not guessed from its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from gra.core.errors import DataError
from gra.evaluation.packed import pack_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Tokens = list[int]
_AT_ONCE = 8  # tokens generated before the rows that have ended leave the batch


@dataclass(frozen=True, slots=True)
class Finish:
    """A generated answer: `reason` is "stop" when the model ended it, "length" at the limit; tokens with the stop."""

    text: str
    tokens: int
    reason: str


def _can_be_divided(cache: Any) -> bool:
    """Whether a cache holds keys and values alone, from which rows can be taken; states of other layers cannot."""
    return isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def _ended(stop: StopStringCriteria | None, sequences: torch.Tensor, before: int) -> list[bool]:
    """Return which rows a text that ends answers has stopped, at any of the tokens after the first `before`."""
    ended = torch.zeros(len(sequences), dtype=torch.bool, device=sequences.device)
    if stop is not None:
        for end in range(before + 1, sequences.shape[1] + 1):
            ended |= stop(sequences[:, :end], None)
    return list(ended.tolist())


@contextmanager
def _head_at(network: PreTrainedModel, where: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Compute the vocabulary at the marked positions alone: most of a small model's work is there.

    Args:
        network: a network with a layer for the vocabulary.
        where: the positions, of shape [rows, width].

    Yields:
        a function from the network's logits to those of the positions, row after row, of shape [positions, vocabulary].
    """

    def at_positions(_: Any, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (states[0][where][None], *states[1:])

    def chosen(logits: torch.Tensor) -> torch.Tensor:
        # A network that multiplies by the layer's weight without calling it has computed every position.
        return logits[where] if logits.shape[:2] == where.shape else logits[0]

    head = network.get_output_embeddings()
    hook = head.register_forward_pre_hook(at_positions) if head is not None else None
    try:
        yield chosen
    finally:
        if hook is not None:
            hook.remove()


class HFModel:
    """A network, whose layers are packed for a CPU here, and its tokenizer.

    With `chat`, prompts come from the chat template and are encoded as they stand, as in training.
    The template writes every special token, so that <bos> is there exactly once.
    """

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        pack_linear(network)
        self.network, self.tokenizer, self.batch_size = network, tokenizer, batch_size
        self.chat = False
        config = network.config.get_text_config()
        self.max_length = int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
        stops = network.generation_config.eos_token_id if network.generation_config is not None else None
        listed = stops if isinstance(stops, list) else [stops]
        self._stops = {int(stop) for stop in (*listed, tokenizer.eos_token_id) if stop is not None}
        # The model's own file may ask for sampling or a repetition penalty; evaluation is greedy for every model.
        network.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self._stops) or None, pad_token_id=self._pad
        )

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a prompt, with <bos> where the model expects it and never twice."""
        bos = self.tokenizer.bos_token
        as_it_stands = self.chat or (bool(bos) and text.startswith(bos))
        return list(self.tokenizer(text, add_special_tokens=not as_it_stands)["input_ids"])

    def generate(self, prompts: Sequence[str], max_new_tokens: int, until: Sequence[str] = ()) -> list[Finish]:
        """Return greedy answers, in the order of the prompts; an answer ends before the first text of `until`.

        Raises:
            DataError: when a prompt leaves no room for an answer.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        for prompt, tokens in zip(prompts, encoded, strict=True):
            self._check_room(len(tokens) + max_new_tokens, prompt)
        order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
        answers: dict[int, Finish] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            generated = self._generate([encoded[i] for i in batch], max_new_tokens, until)
            answers.update(zip(batch, generated, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def weigh(self, requests: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation of its context, and whether greedy decoding gives it.

        Args:
            requests: pairs of context and continuation, both in tokens and neither empty.

        Raises:
            DataError: when a pair is longer than the model can read.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (context, continuation) in enumerate(requests):
            self._check_room(len(context) + len(continuation), self.tokenizer.decode(context))
            groups.setdefault(tuple(context), []).append(index)
        longest = sorted(groups.items(), key=lambda group: (-len(group[0]), group[0]))
        results: dict[int, tuple[float, bool]] = {}
        while longest:
            batch: list[tuple[tuple[int, ...], list[int]]] = []
            rows = 0
            while longest and (not batch or rows + len(longest[0][1]) <= self.batch_size):
                batch.append(longest.pop(0))
                rows += len(batch[-1][1])
            members = [(place, index) for place, (_, indices) in enumerate(batch) for index in indices]
            continuations = [requests[index][1] for _, index in members]
            weighed = self._weigh(
                [list(context) for context, _ in batch], [place for place, _ in members], continuations
            )
            results.update(zip((index for _, index in members), weighed, strict=True))
        return [results[index] for index in range(len(requests))]

    def _check_room(self, tokens: int, text: str) -> None:
        if tokens > self.max_length:
            raise DataError(
                f"an item needs {tokens} tokens and the model reads {self.max_length} at most; shorten the items or "
                f"the answers, or take another model. It begins: {text[:60]!r}"
            )

    @torch.inference_mode()
    def _generate(self, prompts: list[Tokens], max_new_tokens: int, until: Sequence[str]) -> list[Finish]:
        """Generate a few tokens at a time, and go on with the rows that have not ended."""
        ids, mask = self._padded(prompts, left=True)
        width, rows, divided = ids.shape[1], list(range(len(prompts))), True
        stop = StopStringCriteria(self.tokenizer, list(until)) if until else None
        more: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([stop])} if stop else {}
        found: dict[int, Finish] = {}
        while rows:
            before, left = ids.shape[1], max_new_tokens - (ids.shape[1] - width)
            made: Any = self.network.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=min(_AT_ONCE, left) if divided else left,
                return_dict_in_generate=True, **more,
            )  # fmt: skip
            ids = made.sequences
            ended = _ended(stop, ids, before)
            answers = [self._finish(tokens, until) for tokens in ids[:, width:].tolist()]
            answers = [replace(a, reason="stop") if end else a for a, end in zip(answers, ended, strict=True)]
            found.update(zip(rows, answers, strict=True))
            full = ids.shape[1] - width >= max_new_tokens
            places = [] if full else [place for place, answer in enumerate(answers) if answer.reason == "length"]
            kept = torch.tensor(places, dtype=torch.long, device=ids.device)
            rows = [rows[place] for place in places]
            ids, mask = ids[kept], torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - before)], dim=1)[kept]
            if divided := _can_be_divided(made.past_key_values):
                made.past_key_values.batch_select_indices(kept)
                more["past_key_values"] = made.past_key_values
            else:
                more.pop("past_key_values", None)  # the rows that go on are read once more
        return [found[row] for row in range(len(prompts))]

    def _finish(self, tokens: Tokens, until: Sequence[str]) -> Finish:
        while until and tokens and tokens[-1] == self._pad:
            tokens = tokens[:-1]  # what follows a text that ended the answer while others went on
        end = next((place for place, token in enumerate(tokens) if token in self._stops), None)
        kept = tokens if end is None else tokens[:end]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        places = [place for place in (text.find(stop) for stop in until) if place >= 0]
        ended = end is not None or bool(places)
        text = text[: min(places)] if places else text
        return Finish(text, len(tokens) if end is None else end + 1, "stop" if ended else "length")

    @torch.inference_mode()
    def _weigh(self, contexts: list[Tokens], owner: list[int], continuations: list[Tokens]) -> list[tuple[float, bool]]:
        """Compute each context once; each continuation starts from a copy of its context's cache."""
        ids, mask = self._padded(contexts, left=True)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        read = self.network(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        owners = torch.tensor(owner, device=ids.device)
        logits = read.logits[owners]
        longest = max(len(c) for c in continuations)
        if longest > 1:
            cache = read.past_key_values
            cache.batch_select_indices(owners)
            more, more_mask = self._padded([c[:-1] for c in continuations], left=False, width=longest - 1)
            step = torch.arange(1, longest, device=ids.device)
            with _head_at(self.network, more_mask.bool()) as chosen:
                further = self.network(
                    input_ids=more,
                    attention_mask=torch.cat([mask[owners], more_mask], dim=1),
                    position_ids=positions[owners, -1:] + step,
                    past_key_values=cache,
                    use_cache=True,
                )
            rest = torch.split(chosen(further.logits), [len(c) - 1 for c in continuations])
            return [
                self._likelihood(torch.cat([first, others]), c)
                for first, others, c in zip(logits, rest, continuations, strict=True)
            ]
        return [self._likelihood(row, c) for row, c in zip(logits, continuations, strict=True)]

    def _likelihood(self, logits: torch.Tensor, tokens: Tokens) -> tuple[float, bool]:
        scores = logits[: len(tokens)].float()
        wanted = torch.tensor(tokens, device=scores.device)
        chosen = scores.gather(1, wanted[:, None])[:, 0] - scores.logsumexp(-1)
        return float(chosen.sum()), bool((scores.argmax(-1) == wanted).all())

    def _padded(self, rows: list[Tokens], *, left: bool, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and attention mask, both of shape [rows, width]."""
        width = width or max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad, device=self.network.device)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            span = slice(width - len(row), width) if left else slice(0, len(row))
            ids[place, span] = torch.tensor(row, device=ids.device)
            mask[place, span] = 1
        return ids, mask
