"""Facts read from a model directory without loading it: identity, parameter count, architecture, model card."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gra.core.store import cache_dir, sha256_of

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# These name the library that wrote the file and where; the model computes the same without them.
_INCIDENTAL = ("transformers_version", "_name_or_path")


def looks_like_model(path: Path) -> bool:
    """Whether a path is a directory with a model or an adapter in it."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


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
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: facts for name, facts in header.items() if name != "__metadata__"}


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
