"""Read the tokenizer of a model directory: chat template, context length, and a digest of both."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.hashing import file_digest
from gra.models.remote_code import brings_code, check_references
from gra.models.template_check import LARGEST_TEMPLATE, template_problem
from gra.models.weights import read_object

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
_SHARED = ("_tokenizer", "_vocab", "_merges")  # the large parts of a tokenizer, which are only read
# Written by the loading library about itself; they do not change what a text is turned into.
_INCIDENTAL = ("transformers_version", "name_or_path", "is_local", "local_files_only", "backend", "processor_class")


def load_tokenizer(path: Path, *, remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory; code of the model runs only when `remote_code` is set.

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


def load_tokenizer_once(path: Path, *, remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer as `load_tokenizer` does, and keep it: a large one takes seconds to load.

    Several students of one model then load it once. Each caller gets a tokenizer with attributes of its own. The
    vocabulary is shared, and with it the post-processor, which a new stop token would change.

    Raises:
        ModelUnavailable, RecipeError: as `load_tokenizer`.
    """
    if remote_code or not (path / "tokenizer.json").is_file():  # the digest does not cover other kinds of files
        return load_tokenizer(path, remote_code=remote_code)
    check_references(path)
    kind = file_digest(path / "config.json") if (path / "config.json").is_file() else ""  # which names the class
    kept = _keep(_TokenizerFiles(template_digest(path), kind, path))
    own = copy.copy(kept)
    own.__dict__.update({name: copy.deepcopy(value) for name, value in vars(kept).items() if name not in _SHARED})
    return own


@dataclass(frozen=True)
class _TokenizerFiles:
    """A folder's tokenizer; folders with the same digest hold the same one."""

    digest: str
    configuration: str
    folder: Path = field(compare=False)


@lru_cache(maxsize=1)
def _keep(files: _TokenizerFiles) -> PreTrainedTokenizerBase:
    return load_tokenizer(files.folder)


def check_template(tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
    """Check that the chat template is valid Jinja and can be rendered in bounded time and memory.

    A template that refuses the conversation of the check is accepted: errors about a row are reported with the row.

    Raises:
        RecipeError: the chat template is no Jinja, or takes too long or too much memory.
    """
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template]
    for text in texts:
        if isinstance(text, str) and (problem := template_problem(text)):
            raise RecipeError(f"the chat template {whose} cannot be used ({problem}); correct it, or name another")


def has_chat_template(path: Path) -> bool:
    """Whether the tokenizer can turn messages into a prompt; base models usually cannot."""
    return _template_text(path) is not None


def template_digest(path: Path) -> str:
    """Return the SHA-256 of vocabulary, special tokens and chat template, which turn messages into tokens."""
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
    """Return the longest sequence in tokens that both weights and tokenizer allow.

    Raises:
        ModelUnavailable: neither says.
    """
    config = _read_json(path / "config.json")
    sections = [section for section in (config, config.get("text_config")) if isinstance(section, dict)]
    limits = [section.get("max_position_embeddings") for section in sections]
    limits.append(_tokenizer_config(path).get("model_max_length"))
    # Tokenizers without a limit say so with a number like 1e30.
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    if not known:
        raise ModelUnavailable(
            f"{path / 'config.json'} does not say how long a sequence may be (max_position_embeddings)"
        )
    return min(known)


def _template_text(path: Path) -> Any:
    """Read the chat template: text, or a list of named templates; None when there is none."""
    for name in _TEMPLATE_FILES:
        if (path / name).is_file():
            return _read_template(path / name)
    return _tokenizer_config(path).get("chat_template")


def _read_template(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST_TEMPLATE:
            raise ValueError(f"it has more than {LARGEST_TEMPLATE / 1e6:.0f} MB")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} cannot be read ({error}); get the model again") from None


def _tokenizer_config(path: Path) -> dict[str, Any]:
    return _read_json(path / "tokenizer_config.json")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_object(path)
    except ValueError as error:
        raise ModelUnavailable(f"{error}; get the model again") from None
