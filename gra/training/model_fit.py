"""Check that model, tokenizer and teacher fit each other before any weights are read.

Models are built on PyTorch's meta device, which has no storage: only configurations and file headers are read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.core.errors import GraError, RecipeError
from gra.models.classification import refuse_reward_model
from gra.models.configuration import ConfigurationUnreadable, Known
from gra.training.data.tokenize import Encoded, sample_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 5
# Marks of a turn in published chat templates, such as <|im_start|> and <start_of_turn>.
_MARK = re.compile(r"<\|[\w./-]+\|>|<(?:start|end)_of_\w+>")


@contextmanager
def readable(name: str, recipe: Path, scores: bool = False) -> Iterator[None]:
    """Turn the failures of Transformers to read or build a model into one sentence.

    Args:
        name: The model as the recipe names it.
        recipe: The file.
        scores: Whether it is built as a reward model.

    Raises:
        RecipeError: In place of the library's error.
    """
    try:
        yield
    except GraError as error:
        if not isinstance(error, ConfigurationUnreadable):
            raise
        raise _untrainable(name, error, recipe, scores) from error
    except Exception as error:  # a configuration is a foreign file, and libraries fail on it in many ways
        raise _untrainable(name, error, recipe, scores) from error


def _untrainable(name: str, error: Exception, recipe: Path, scores: bool) -> RecipeError:
    kind = "reward model" if scores else "causal language model"
    return RecipeError(
        f"{name} cannot be trained as a {kind} ({short(error)}); check its config.json, or name another model",
        recipe,
    )


def model_class(scores: bool) -> Any:
    """Return the class of Transformers that loads a student: a causal language model, or a reward model."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if scores else AutoModelForCausalLM


def empty_model(config: Any, attention: str | None = None, *, scores: bool = False) -> Any:
    """Return a causal language model or a reward model on the meta device.

    Args:
        config: Its Transformers configuration.
        attention: The implementation of attention to check; None does not check any.
        scores: Whether it is a reward model, with one label.
    """
    from accelerate import init_empty_weights

    if scores:
        config = copy.deepcopy(config)
        config.num_labels = 1
    with init_empty_weights():
        model = model_class(scores).from_config(config, attn_implementation=attention)
    model.tie_weights()
    return model


def check_model(name: str, known: Known, loaded: Loaded[TrainRecipe], *, scores: bool = False) -> tuple[Any, list[str]]:
    """Compare the stored weights of a model with its configuration.

    Args:
        name: The model as the recipe names it.
        known: Its configuration, and its weights when they are on this machine.
        loaded: The recipe.
        scores: Whether it becomes a reward model, whose head may be new.

    Returns:
        The model on the meta device, and warnings.

    Raises:
        RecipeError: When Transformers cannot build the model, or tensors are missing or have other shapes. Also when
            it is a reward model and should write text.
    """
    weights, recipe, attention = known.model, loaded.path, loaded.recipe.model.attn_implementation
    if weights is not None and not scores:
        refuse_reward_model(name, weights.path, "name the model that it was made from, or set `method: reward`")
    with readable(name, recipe, scores):
        # Flash attention is a package for GPUs, which a dry run plans for on other machines.
        checked = None if attention == "flash_attention_2" else attention
        model = empty_model(known.config, checked, scores=scores)
        # Quantized weights have other shapes. A dry run must not run a model's own code.
        if weights is None or weights.remote_code or getattr(known.config, "quantization_config", None) is not None:
            return model, []
        _, seen = model_class(scores).from_pretrained(
            weights.path,
            config=model.config,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    if seen["mismatched_keys"]:
        tensor, stored, described = min(seen["mismatched_keys"])
        raise RecipeError(
            f"{name}: `{tensor}` has the shape {list(stored)} in the weights and {list(described)} by config.json; "
            "take weights and configuration from one place, or save the model again",
            recipe,
        )
    head = _new_head(model) if scores else frozenset()
    if missing := sorted(set(seen["missing_keys"]) - head):
        raise RecipeError(
            f"{name}: the weights lack {len(missing)} tensors that config.json describes ({listed(missing)}), so they "
            "would begin as random numbers; take weights and configuration from one place",
            recipe,
        )
    described = {_numbered(tensor) for tensor in model.state_dict()}
    beyond = sorted(tensor for tensor in seen["unexpected_keys"] if _numbered(tensor) in described)
    if not beyond:
        return model, []
    return model, [
        f"{name}: config.json describes fewer layers than are stored; {len(beyond)} tensors are left out "
        f"({listed(beyond)})"
    ]


def _new_head(model: Any) -> frozenset[str]:
    """Return the tensors of a reward model outside its base model: they begin as random numbers."""
    return frozenset(name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}."))


def float_head(model: Any) -> None:
    """Keep the head of a reward model in float32, where bfloat16 would lose small updates and differences of rewards.

    Args:
        model: With its weights; the states that reach the head take its type.
    """
    for name, head in model.named_children():
        if name != model.base_model_prefix and any(True for _ in head.parameters()):
            head.float().register_forward_pre_hook(_in_type_of_weights)


def _in_type_of_weights(module: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(state.to(next(module.parameters()).dtype) for state in states)


def check_tokens(
    loaded: Loaded[TrainRecipe], model: Any, tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded]
) -> list[str]:
    """Compare the tokens that rows, template and padding use with the model's embeddings.

    Args:
        loaded: The recipe.
        model: The student on the meta device.
        tokenizer: Its tokenizer with the recipe's chat template.
        encoded: Training and held-out rows.

    Returns:
        Warnings: tokens that are not used and have no embedding, and marks of the template that are no tokens.

    Raises:
        RecipeError: When a token that is used has no embedding.
    """
    name, count = loaded.recipe.model.name, int(model.get_input_embeddings().weight.shape[0])
    beyond = sorted(token for token, number in tokenizer.get_vocab().items() if number >= count)
    users = {which: getattr(tokenizer, f"{which}_id") for which in ("eos_token", "pad_token", "bos_token")}
    used = [(number, f"the tokenizer's `{which}`") for which, number in users.items() if number is not None]
    number, user = max(used + [rows.largest for rows in encoded])
    if number >= count:
        raise RecipeError(
            f"{name}: {user} uses token {number} ({tokenizer.convert_ids_to_tokens(number)}), and the model has "
            f"embeddings for {count} tokens; {len(beyond)} tokens were added to the tokenizer without resizing the "
            "embeddings. Call `model.resize_token_embeddings(len(tokenizer))` and save the model, or use the tokenizer "
            "that came with it",
            loaded.path,
        )
    notes = []
    if beyond:
        notes.append(
            f"{name}: {len(beyond)} tokens of the tokenizer have no embedding ({listed(beyond)}); no row uses them"
        )
    if loaded.recipe.model.chat_template is not None and (pieces := _split_marks(tokenizer)):
        notes.append(
            f"`model.chat_template` writes {' and '.join(pieces)}, which {name} has no tokens for and reads as "
            "plain text; use `builtin:plain`, or a template that was made for this model"
        )
    return notes


def _split_marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the marks that the chat template writes and the tokenizer cuts into pieces."""
    vocabulary = tokenizer.get_vocab()
    return sorted({mark for mark in _MARK.findall(sample_text(tokenizer)) if mark not in vocabulary})


def check_positions(loaded: Loaded[TrainRecipe], model: Any, longest: int) -> list[str]:
    """Compare the tokens of the longest row with the positions that the model knows.

    Returns:
        A warning when the model computes positions and was made for fewer.

    Raises:
        RecipeError: When positions are learned, so that later ones have no embedding.
    """
    from torch.nn import Embedding

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or longest <= limit:
        return []
    name, words = loaded.recipe.model.name, model.get_input_embeddings()
    text = f"{name} has {limit} positions, and the longest row has {longest} tokens"
    tables = [part for part in model.modules() if isinstance(part, Embedding) and part is not words]
    if any(limit <= table.num_embeddings < longest for table in tables):
        raise RecipeError(f"{text}; set `train.max_length: {limit}`", loaded.path)
    return [f"{text}; it was not made for rows of this length"]


def check_vocabularies(
    loaded: Loaded[TrainRecipe], student: PreTrainedTokenizerBase, teacher: Mapping[str, int]
) -> None:
    """Check that a teacher with `vocabulary: same` numbers tokens as the student does.

    Args:
        loaded: The recipe.
        student: The student's tokenizer.
        teacher: The numbers of the teacher's tokens.

    Raises:
        RecipeError: When a token of the student has another number, or none.
    """
    recipe = loaded.recipe
    if recipe.teacher is None or recipe.teacher.vocabulary != "same":
        return
    differ = [token for token, number in student.get_vocab().items() if teacher.get(token) != number]
    if differ:
        raise RecipeError(
            f"{recipe.model.name} and {recipe.teacher.name} number {len(differ)} tokens differently, so the "
            "teacher's probabilities would be read as those of other tokens; choose a teacher of the same family, or "
            "set `teacher.vocabulary: other` (experimental)",
            loaded.path,
        )


def _numbered(tensor: str) -> str:
    """Return a tensor's name without the numbers of layers."""
    return re.sub(r"\.\d+\.", ".N.", tensor)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beside them."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def short(error: Exception) -> str:
    """Return the first 200 characters of a library's message as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
