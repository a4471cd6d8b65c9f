"""Write a model's linear layers as 8-bit integers, in the form that vLLM computes with on a CPU.

Weights are symmetric with one scale an output channel. Inputs are quantized by vLLM token by token (W8A8). Embeddings,
output layer, norms and biases stay in bfloat16. The folder is of the kind `compressed-tensors`, format `int-quantized`.
It is sealed and lies in the cache, so that it is written once for each model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.hashing import digest, file_digest
from gra.downloads.cache import Progress, building, cache_dir, damage, gigabytes, locked, read_seal, require_space
from gra.models import weights
from gra.models.catalog import ResolvedModel
from gra.models.packages import SEAL

FORMAT = 1
"""Version of the folders written here; it is a part of the model's identity, so raise it when numbers change."""

QUANTIZATION: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
            },
        }
    },
    "ignore": ["lm_head"],
}  # fmt: skip
"""Say in config.json how the weights are stored, in the words of compressed-tensors."""

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_FLOATS = {"BF16": 2, "F16": 2, "F32": 4}  # bytes of a number
_WIDTHS = {"I8": 1, **_FLOATS}
_COPIED = (".json", ".jinja", ".model", ".txt", ".md")
_COPIED_NAMES = ("LICENSE", "LICENCE", "NOTICE")
_REPLACED = ("config.json", SEAL)
_LARGEST = 127
_SMALLEST_SCALE = np.finfo(np.float32).tiny  # of a row of zeros, where 0 would divide by 0
_BLOCK = 1 << 21  # numbers that are converted at a time
_MARGIN = 100_000_000  # bytes for tokenizer and configuration

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Tensor:
    """Where a safetensors file holds a tensor; offsets in bytes from the beginning of the file."""

    file: Path
    kind: str  # the dtype in the words of safetensors
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """Return the number of rows; a vector or a number is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of whole rows, a block at a time."""
        row = (self.end - self.begin) // max(1, self.rows)
        if not row:
            return
        data = np.memmap(self.file, np.uint8, "r", self.begin, (self.rows, row))
        step = max(1, _BLOCK * 2 // row)
        for first in range(0, self.rows, step):
            yield np.asarray(data[first : first + step])


def quantize(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantize a matrix symmetrically, each row with a scale of its own.

    Args:
        rows: finite weights, shape (outputs, inputs).

    Returns:
        Integers from -127 to 127 of the same shape, and scales of shape (outputs, 1). Integer times scale differs from
        the weight by half a scale at most, as far as rounding in float32 allows.
    """
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scales = np.maximum(largest / np.float32(_LARGEST), _SMALLEST_SCALE, dtype=np.float32)
    scaled = rows / scales
    return np.rint(scaled, out=scaled).astype(np.int8), scales


def int8_model(model: ResolvedModel, progress: Progress) -> ResolvedModel:
    """Return the same model with weights in int8, written into the cache unless they are there.

    Args:
        model: a model on this machine, with weights in bfloat16, float16 or float32.
        progress: called with one line of text when the weights are written.

    Raises:
        RecipeError: the model's layers have another form, or it is quantized already.
        ModelUnavailable: its files are damaged, or the disk is too small.
    """
    folder = _folder(model)
    made = replace(model, path=folder, identity=f"{model.identity}+int8.{FORMAT}", weights="int8")
    with locked(folder.name, progress):
        seal = read_seal(folder, SEAL)
        if seal is not None and damage(folder, seal) is None:
            return made
        stored = _stored(model)
        size = _size(stored)
        require_space(cache_dir(), size + _MARGIN, f"{model.name} in int8")
        progress(f"{model.name}: writing {gigabytes(size)} of int8 weights into {folder}")
        with building(folder, SEAL) as (making, facts):
            for file in _copied(model.path):
                shutil.copyfile(file, making / file.name)
            config = weights.read_object(model.path / "config.json") | {"quantization_config": QUANTIZATION}
            (making / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            _write(stored, making / "model.safetensors", model)
            facts.update(
                name=model.name, made_from=model.identity, weights="int8", format=FORMAT, note=model.source_note,
                licence=model.licence, licence_url=model.licence_url,
            )  # fmt: skip
    return made


def shown_name(name: str, stored_as: str | None) -> str:
    """Return the name of a model for people, with the form of its weights where they are not its own."""
    return f"{name} ({stored_as} weights)" if stored_as else name


def int8_gb(model: ResolvedModel) -> float:
    """Return the size in GB that the weights have in int8, by the headers of the files.

    Raises:
        RecipeError: the model's layers have another form, or it is quantized already.
        ModelUnavailable: its files are damaged.
    """
    return _size(_stored(model)) / 2**30


def _folder(model: ResolvedModel) -> Path:
    """Return the folder of a model's int8 weights; another template or tokenizer gives another one."""
    files = {file.name: file_digest(file) for file in _copied(model.path)}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model.name).name).strip(".-")[:60]
    return cache_dir() / "int8" / f"{name or 'model'}-{digest([FORMAT, model.identity, files])[:16]}"


def _copied(path: Path) -> list[Path]:
    """List the files beside the weights that the int8 folder has too."""
    return sorted(
        file
        for file in path.iterdir()
        if file.is_file()
        and file.name not in _REPLACED
        and not file.name.endswith(".index.json")
        and (file.suffix in _COPIED or file.name.startswith(_COPIED_NAMES))
    )


def _stored(model: ResolvedModel) -> dict[str, _Tensor]:
    """Return the tensors of a model by name, all of a form that can be quantized or kept."""
    if problem := weights.damage(model.path):
        raise ModelUnavailable(f"{problem}; get `{model.name}` again")
    if "quantization_config" in weights.read_object(model.path / "config.json"):
        raise _unfit(model, "its weights are quantized already")
    index = model.path / "model.safetensors.index.json"
    names: set[str] = set()
    if index.is_file():
        names = set(weights.read_object(index).get("weight_map", {}).values())
    files = [model.path / name for name in names] or list(model.path.glob("*.safetensors"))
    found = {name: tensor for file in sorted(files) for name, tensor in _tensors(file).items()}
    for name, tensor in sorted(found.items()):
        if _LINEAR.fullmatch(name) and (tensor.kind not in _FLOATS or len(tensor.shape) != 2):
            shape = "x".join(map(str, tensor.shape))
            raise _unfit(model, f"`{name}` holds {tensor.kind} of shape {shape}, and no matrix of 16 or 32 bit numbers")
        if len(tensor.shape) > 1 and not _LINEAR.fullmatch(name) and name not in _VOCABULARY:
            raise _unfit(model, f"`{name}` is no linear layer of the usual form, such as model.layers.0.mlp.up_proj")
    if not any(map(_LINEAR.fullmatch, found)):
        raise _unfit(model, "it has no linear layers of the usual form, such as model.layers.0.mlp.up_proj")
    return found


def _unfit(model: ResolvedModel, why: str) -> RecipeError:
    return RecipeError(
        f"`engine.weights: int8` cannot be used with `{model.name}`: {why}; leave `engine.weights` out, or choose "
        "another model"
    )


def _tensors(file: Path) -> dict[str, _Tensor]:
    """Read the header of a whole safetensors file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {
        name: _Tensor(file, facts["dtype"], tuple(facts["shape"]), *(8 + length + end for end in facts["data_offsets"]))
        for name, facts in header.items()
    }


def _plan(stored: Mapping[str, _Tensor]) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return dtype, shape and bytes of every tensor of the int8 file, by name."""
    planned = {}
    for name, tensor in stored.items():
        count = int(np.prod(tensor.shape, dtype=np.int64))
        if _LINEAR.fullmatch(name):
            planned[name] = ("I8", tensor.shape, count)
            planned[f"{name}_scale"] = ("F32", (tensor.shape[0], 1), 4 * tensor.shape[0])
        elif tensor.kind in _FLOATS:
            planned[name] = ("BF16", tensor.shape, 2 * count)
        else:
            planned[name] = (tensor.kind, tensor.shape, tensor.end - tensor.begin)
    # The widest numbers come first, so that each tensor begins at a multiple of its numbers' width.
    order = sorted(planned, key=lambda name: (-_WIDTHS.get(planned[name][0], 8), name))
    return {name: planned[name] for name in order}


def _size(stored: Mapping[str, _Tensor]) -> int:
    return sum(size for _, _, size in _plan(stored).values())


def _write(stored: Mapping[str, _Tensor], target: Path, model: ResolvedModel) -> None:
    """Write the int8 file, block by block."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape, size) in _plan(stored).items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        start = 8 + len(text)
        out.truncate(start + end)
        for name, tensor in stored.items():
            place = start + header[name]["data_offsets"][0]
            if not _LINEAR.fullmatch(name):
                _copy(tensor, out, place)
                continue
            scales = _copy_quantized(name, tensor, out, place, model)
            out.seek(start + header[f"{name}_scale"]["data_offsets"][0])
            out.write(scales.tobytes())


def _copy_quantized(name: str, tensor: _Tensor, out: BinaryIO, place: int, model: ResolvedModel) -> Floats:
    """Write the integers of a linear layer and return its scales."""
    out.seek(place)
    scales = [np.empty((0, 1), np.float32)]
    for block in tensor.blocks():
        rows = _floats(block, tensor.kind)
        if not np.isfinite(rows).all():
            raise _unfit(model, f"`{name}` holds values that are not finite")
        integers, scale = quantize(rows)
        out.write(integers.tobytes())
        scales.append(scale)
    return np.concatenate(scales)


def _copy(tensor: _Tensor, out: BinaryIO, place: int) -> None:
    """Write a tensor that is kept, in bfloat16 when it holds floating-point numbers."""
    out.seek(place)
    for block in tensor.blocks():
        narrow = tensor.kind in _FLOATS and tensor.kind != "BF16"
        out.write((_bfloat16(_floats(block, tensor.kind)) if narrow else block).tobytes())


def _floats(block: NDArray[np.uint8], kind: str) -> Floats:
    """Return the numbers in a block of bytes."""
    if kind == "BF16":  # NumPy has no bfloat16, which is the upper half of float32
        return (block.view("<u2").astype("<u4") << 16).view("<f4")
    return block.view("<f2" if kind == "F16" else "<f4").astype(np.float32)


def _bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
