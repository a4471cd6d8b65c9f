"""What a model directory says about its tokenizer: chat template, context length, and a digest of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.core.errors import ModelUnavailable, RecipeError
from gra.models.remote_code import brings_code, check_references

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# Written by the loading library about itself; they do not change what a text is turned into.
_INCIDENTAL = ("transformers_version", "name_or_path", "is_local", "local_files_only", "backend", "processor_class")


def load_tokenizer(path: Path, *, remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory; code that a model brings along runs only when `remote_code` is set.

    Raises:
        ModelUnavailable: the directory has no tokenizer that can be loaded.
        RecipeError: it refers to code of another repository.
    """
    from transformers import AutoTokenizer

    check_references(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=remote_code)
    except Exception as error:  # of libraries that read files written by others; `tokenizers` raises no narrower type
        if not remote_code and brings_code(path):
            raise ModelUnavailable(
                f"the tokenizer in {path} is Python code that comes with the model, and a dry run or a recipe without "
                "`allow_remote_code: true` runs none; allow it, or choose another model"
            ) from None
        raise ModelUnavailable(f"{path} has no tokenizer that can be loaded: {error}") from error
    return tokenizer


def check_template(tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
    """See that the chat template is one; what it says of a row is told with the row.

    Raises:
        RecipeError: the chat template is no Jinja.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    question = [{"role": "user", "content": "Why?"}]
    try:
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        raise RecipeError(
            f"the chat template {whose} cannot be used ({error}, line {error.lineno}); correct it, or name another"
        ) from None
    except TemplateError:
        return


def has_chat_template(path: Path) -> bool:
    """Whether the tokenizer can turn messages into a prompt; base models usually cannot."""
    return _template_text(path) is not None


def template_digest(path: Path) -> str:
    """SHA-256 of everything that decides how messages become tokens: vocabulary, special tokens, chat template."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (path / name).is_file():
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256((path / name).read_bytes()).digest())
    config = {key: value for key, value in _tokenizer_config(path).items() if key not in _INCIDENTAL}
    config["chat_template"] = _template_text(path)
    digest.update(json.dumps(config, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def template_tokens(path: Path) -> frozenset[str]:
    """Return the special tokens that the chat template writes, and the token that ends an answer.

    Such a token inside a text would begin or end a turn.
    """
    config, declared = _tokenizer_config(path), _read_json(path / "special_tokens_map.json")
    added = [
        *(config.get("added_tokens_decoder") or {}).values(),
        *_read_json(path / "tokenizer.json").get("added_tokens", ()),
    ]
    special = {token["content"] for token in added if token.get("special")}
    template = json.dumps(_template_text(path) or "", ensure_ascii=False)
    ends = [section.get("eos_token") for section in (config, declared)]
    named = [end.get("content") if isinstance(end, dict) else end for end in ends]
    return frozenset(token for token in special if token in template) | frozenset(filter(None, named))


def context_length(path: Path) -> int:
    """The longest sequence in tokens: the smaller of what the weights and the tokenizer allow.

    Raises:
        ModelUnavailable: neither says.
    """
    config = _read_json(path / "config.json")
    limits = [section.get("max_position_embeddings") for section in (config, config.get("text_config") or {})]
    limits.append(_tokenizer_config(path).get("model_max_length"))
    # Tokenizers without a limit say so with a number like 1e30.
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    if not known:
        raise ModelUnavailable(
            f"{path / 'config.json'} does not say how long a sequence may be (max_position_embeddings)"
        )
    return min(known)


def _template_text(path: Path) -> Any:
    """The chat template as written: text, or a list of named templates; None when there is none."""
    for name in _TEMPLATE_FILES:
        if (path / name).is_file():
            return (path / name).read_text()
    return _tokenizer_config(path).get("chat_template")


def _tokenizer_config(path: Path) -> dict[str, Any]:
    return _read_json(path / "tokenizer_config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ModelUnavailable(f"{path} is not JSON ({error}); get the model again") from error
    return content if isinstance(content, dict) else {}
