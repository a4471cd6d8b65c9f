"""Read facts of a model directory without loading it: identity, parameter count, architecture, model card.

The directory may come from another person, so sizes are limited and every value is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gra.core.files import read_regular, write_json
from gra.core.hardware import computing_type
from gra.core.hashing import file_digest
from gra.core.stored.reader import load_plain_yaml
from gra.downloads.cache import cache_dir

_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# These name the library that wrote the file and where; the model computes the same without them.
_INCIDENTAL = ("transformers_version", "_name_or_path")
_PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_JSON = 50_000_000  # bytes of a configuration or an index
_LARGEST_CARD = 1_000_000
_LONGEST_HEADER = 1_000_000  # bytes; of a header that is read to explain what is wrong with a file
_PART = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


def widened(model: Any, dtype: str, *, on_gpu: bool) -> Any:
    """Return a loaded model whose weights of a type are now in the type that this machine computes at speed."""
    return model if computing_type(dtype, on_gpu=on_gpu) == dtype else model.float()


def looks_like_model(path: Path) -> bool:
    """Whether a path is a directory with a model or an adapter in it."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def damage(path: Path) -> str | None:
    """Say what keeps a model or an adapter from being loaded, by headers and sizes; None when nothing does."""
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        if file.exists() and not file.is_file() and not file.is_dir():
            return f"{file} is no regular file, but a pipe, a socket or a device"  # reading it may never end
    for name in ("config.json", "adapter_config.json", _INDEX):
        if (path / name).is_file() and (problem := _not_an_object(path / name)):
            return problem
    for file in sorted(path.glob("*.safetensors")):
        if problem := _cut_off(file):
            return problem
    pickles = sorted(found for pattern in _PICKLES for found in path.glob(pattern))
    if pickles and not any(path.glob("*.safetensors")):
        return (
            f"{pickles[0]} holds the weights as a pickle, which can run code when it is read, and GRA reads none; "
            "convert them to safetensors"
        )
    if not (path / _INDEX).is_file() and (parts := sorted(f.name for f in path.glob("*") if _PART.fullmatch(f.name))):
        return f"{path / _INDEX} is missing, which says what is in {parts[0]} and the other parts"
    return None


def _not_an_object(file: Path) -> str | None:
    try:
        content = read_object(file)
    except ValueError as error:
        return str(error)
    shards = content.get("weight_map") if file.name == _INDEX else {}
    if not isinstance(shards, dict) or not all(_is_shard(name) for name in shards.values()):
        return f"{file} is not what a model has under this name"
    return None


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of limited size.

    Raises:
        ValueError: it cannot be read or is no object; the message names the file.
    """
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it has more than {_LARGEST_JSON / 1e6:.0f} MB")
        content = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not what a model has under this name")
    return content


def _cut_off(file: Path) -> str | None:
    """Say what is wrong with a weights file by its header and size; its tensors are not read."""
    try:
        size = file.stat().st_size
        with safe_open(file, framework="np"):
            return None
    except OSError as error:
        return f"{file} cannot be read ({error.strerror or error})"
    except (SafetensorError, OverflowError):
        expected = _expected_size(file)
    if expected is not None and expected != size:
        return f"{file} has {size:,} bytes, by its own header it should have {expected:,}"
    return f"{file} has {size:,} bytes and does not begin as a safetensors file must"


def _expected_size(file: Path) -> int | None:
    """Return the size in bytes that the header of a damaged file asks for; None when it cannot be read."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                return None
            header = json.loads(stream.read(length))
        ends = [facts["data_offsets"][1] for name, facts in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0) if all(isinstance(end, int) for end in ends) else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def identity(path: Path, digests: Mapping[str, str]) -> str:
    """Return the identity of local weights for the ledger: a digest of the weights files and the configuration."""
    config = read_object(path / "config.json")
    for key in _INCIDENTAL:
        config.pop(key, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(digests):
        if any(Path(name).match(pattern) for pattern in _WEIGHTS):
            digest.update(f"{name} {digests[name]}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def remembered_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every weights file by name; digests of files with the same size and time are cached."""
    file = cache_dir() / "digests.json"
    try:
        known = read_object(file)
    except ValueError:  # there is none, or another program damaged it
        known = {}
    result, new = {}, {}
    for weights in sorted(p for pattern in _WEIGHTS for p in path.glob(pattern)):
        facts = weights.stat()
        stamp = f"{weights.resolve()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
        if stamp not in known:
            new[stamp] = file_digest(weights)
        result[weights.name] = str(known.get(stamp) or new[stamp])
    if new:
        write_json(file, {**known, **new})
    return result


def count_parameters(path: Path) -> int | None:
    """Count the weights by the headers of the safetensors files; None when there are none."""
    counts = [_count_in(file) for file in path.glob("*.safetensors")]
    return sum(counts) if counts else None


def count_half_parameters(path: Path) -> int:
    """Count the weights that are stored in 16 bits, by the headers of the safetensors files."""
    return sum(_count_in(file, ("F16", "BF16")) for file in path.glob("*.safetensors"))


def tensors_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a whole safetensors file, by name."""
    with safe_open(file, framework="np") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _count_in(file: Path, types: tuple[str, ...] = ("F", "BF")) -> int:
    with safe_open(file, framework="np") as opened:
        slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118
        # Integer tensors are buffers such as position numbers, not weights.
        return sum(math.prod(part.get_shape()) for part in slices if part.get_dtype().startswith(types))


def architecture(path: Path) -> str:
    """Return the model type of the configuration, such as "llama"; "unknown" when it names none."""
    kind = read_object(path / "config.json").get("model_type")
    return kind if isinstance(kind, str) else "unknown"


def model_card(path: Path) -> dict[str, str]:
    """Read the texts of the metadata at the head of README.md; empty when there are none that can be read."""
    readme = path / "README.md"
    if not readme.is_file():
        return {}
    with readme.open(encoding="utf-8", errors="replace") as stream:
        parts = stream.read(_LARGEST_CARD).split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        head = load_plain_yaml(parts[1])
    except ValueError:
        return {}
    return {key: value for key, value in head.items() if isinstance(value, str)} if isinstance(head, dict) else {}
