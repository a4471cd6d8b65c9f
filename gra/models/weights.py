"""Facts read from a model directory without loading it: identity, parameter count, architecture, model card."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gra.downloads.cache import cache_dir, sha256_of

_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# These name the library that wrote the file and where; the model computes the same without them.
_INCIDENTAL = ("transformers_version", "_name_or_path")
_LONGEST_HEADER = 100_000_000  # bytes; what the format allows
_PART = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


def looks_like_model(path: Path) -> bool:
    """Whether a path is a directory with a model or an adapter in it."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def damage(path: Path) -> str | None:
    """What keeps a model or an adapter from being loaded, by headers and sizes alone; None when nothing is seen."""
    for name in ("config.json", "adapter_config.json", _INDEX):
        if (path / name).is_file() and (problem := _not_an_object(path / name)):
            return problem
    for file in sorted(found for pattern in (*_WEIGHTS, "adapter_model.bin") for found in path.glob(pattern)):
        if problem := _cut_off(file):
            return problem
    if not (path / _INDEX).is_file() and (parts := sorted(f.name for f in path.glob("*") if _PART.fullmatch(f.name))):
        return f"{path / _INDEX} is missing, which says what is in {parts[0]} and the other parts"
    return None


def _not_an_object(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"{file} cannot be read ({error})"
    if not isinstance(content, dict) or (file.name == _INDEX and not isinstance(content.get("weight_map"), dict)):
        return f"{file} is not what a model has under this name"
    return None


def _cut_off(file: Path) -> str | None:
    """What is wrong with the size of a weights file; its tensors are not read."""
    try:
        size = file.stat().st_size
        if file.suffix == ".bin":  # a zip archive, whose table of contents comes last
            with file.open("rb") as stream:
                archive = stream.read(2) == b"PK"
            return f"{file} is cut off (it has {size:,} bytes)" if archive and not zipfile.is_zipfile(file) else None
        tensors, start = _header(file)
        expected = start + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    except (ValueError, TypeError, LookupError):
        return f"{file} has {size:,} bytes and does not begin as a safetensors file must"
    return None if size == expected else f"{file} has {size:,} bytes, by its own header it should have {expected:,}"


def identity(path: Path, digests: Mapping[str, str]) -> str:
    """What the ledger knows local weights by: a digest over the weights files and the configuration."""
    config = json.loads((path / "config.json").read_text())
    for key in _INCIDENTAL:
        config.pop(key, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(digests):
        if any(Path(name).match(pattern) for pattern in _WEIGHTS):
            digest.update(f"{name} {digests[name]}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def remembered_digests(path: Path) -> dict[str, str]:
    """SHA-256 by file name of every weights file; hashed once, then taken from the cache while size and time stand."""
    file = cache_dir() / "digests.json"
    try:
        known = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    result, new = {}, {}
    for weights in sorted(p for pattern in _WEIGHTS for p in path.glob(pattern)):
        facts = weights.stat()
        stamp = f"{weights.resolve()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
        if stamp not in known:
            new[stamp] = sha256_of(weights)
        result[weights.name] = known.get(stamp) or new[stamp]
    if new:
        file.parent.mkdir(parents=True, exist_ok=True)
        written = file.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps({**known, **new}, indent=2))
        written.replace(file)
    return result


def count_parameters(path: Path) -> int | None:
    """The number of weights, from the headers of the safetensors files; None when there are none."""
    counts = [_count_in(file) for file in path.glob("*.safetensors")]
    return sum(counts) if counts else None


def tensors_in(file: Path) -> dict[str, Any]:
    """What the header of a safetensors file says of each tensor."""
    return _header(file)[0]


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name, and where their values begin.

    Raises:
        ValueError: the file does not begin with a whole header.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(_LONGEST_HEADER, file.stat().st_size - 8):
            raise ValueError(f"{file} is shorter than its header")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{file} has no header")
    return {name: facts for name, facts in header.items() if name != "__metadata__"}, 8 + length


def _count_in(file: Path) -> int:
    tensors = list(tensors_in(file).values())
    # Integer tensors are buffers such as position numbers, not weights.
    return sum(math.prod(t["shape"]) for t in tensors if t["dtype"].startswith(("F", "BF")))


def architecture(path: Path) -> str:
    """The model type in the configuration, such as "llama"; "unknown" when it does not say."""
    return str(json.loads((path / "config.json").read_text()).get("model_type", "unknown"))


def model_card(path: Path) -> dict[str, Any]:
    """The metadata at the head of README.md; empty when there is none."""
    readme = path / "README.md"
    if not readme.is_file():
        return {}
    parts = readme.read_text(errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}
