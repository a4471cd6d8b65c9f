"""Merge several runs of one recipe into one dataset: a row that two runs wrote is kept once, and the other is listed.

Rows are decided as within a run, best score first. Texts and vectors of all accepted rows are in memory at once (1.5 KB
and the text a row); everything else is read a run at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gra.core.duplicates import repeated
from gra.core.errors import DataError, RecipeError
from gra.core.files import atomic_path, make_folder, refuse_special_files
from gra.core.hashing import file_digest
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.text.characters import well_formed
from gra.data.dedup.greedy import Decision, DedupTexts, greedy_dedup
from gra.data.dedup.nearest import Vectors
from gra.data.dedup.vectors import VectorFile
from gra.data.embedder import Embedder
from gra.data.export import PREFERENCE_SCHEMA, TRAIN_SCHEMA

_BLOCK = 2048
_DROPPED = pa.schema(
    [("id", pa.string()), ("repeats", pa.string()), ("stage", pa.string()), ("similarity", pa.float64())]
)
_CARD = """---
configs:
- config_name: train
  data_files: train.parquet
  default: true
- config_name: preferences
  data_files: preferences.parquet
---

# Merged dataset

{rows:,} rows of {shards} runs ({names}); {dropped:,} rows that repeat another run's were left out (`dropped.parquet`
beside this folder lists them). Conditions and limits are those of the runs, whose cards and lineages describe each row.
"""


@dataclass(frozen=True)
class Shard:
    """Hold the accepted rows of one run, with the fields that decide whether they stay."""

    name: str
    dataset: Path
    texts: list[str]
    scores: list[float]
    ids: list[str]


def read_shard(run: Path) -> Shard:
    """Read the rows of a finished run.

    Raises:
        DataError: when the run has no dataset, or it is not the one that its manifest knows.
    """
    refuse_special_files(run)
    file = run / "dataset" / "train.parquet"
    known = RunFolder(run).manifest().get("synthesis", {}).get("files", {})
    if "dataset/train.parquet" not in known or not file.is_file():
        raise DataError(f"{run} holds no finished dataset; let its run end (run the same command again) and merge then")
    for name in ("dataset/train.parquet", "dataset/preferences.parquet"):
        if (run / name).is_file() and file_digest(run / name) != known.get(name):
            raise DataError(f"{run / name} is not the file that its manifest knows; see `gra verify {run}`")
    table = pq.read_table(file, columns=["prompt", "id", "score"])
    texts = [prompt[0]["content"] for prompt in table["prompt"].to_pylist()]
    scores = [10.0 if score is None else score for score in table["score"].to_pylist()]
    name = run.resolve().name
    return Shard(name, file.parent, texts, scores, [f"{name}/{number}" for number in table["id"].to_pylist()])


def merge(
    runs: Sequence[Path], out: Path, embedder: Embedder, threshold: float, view: View | None = None
) -> dict[str, int]:
    """Write `out/dataset/`, `out/dropped.parquet` and a manifest; return how many rows were kept and dropped.

    Raises:
        RecipeError: when two runs have one name, or the target is one of them or holds something else.
        DataError: when a run has no finished dataset.
    """
    names = [run.resolve().name for run in runs]
    if twice := repeated(names):
        raise RecipeError(f"two of the runs are called `{twice[0]}`; rows are named after their run, so rename one")
    if odd := [name for name in names if well_formed(name) != name]:
        raise RecipeError(f"the name of the run {odd[0]!a} is not UTF-8, and rows are named after their run; rename it")
    here = out.resolve()
    for run in runs:
        if here.is_relative_to(run.resolve()) or run.resolve().is_relative_to(here):
            raise RecipeError(
                f"{out} is the run {run}, or in it or around it; give the merged dataset a folder beside it"
            )
    if others := [name for name in RunFolder(out).manifest() if name not in ("manifest_version", "merge")]:
        raise RecipeError(f"{out} holds what `{others[0]}` wrote; give the merged dataset a folder of its own")
    shards = [read_shard(run) for run in runs]
    folder = RunFolder(out).create()
    with folder.lock():
        decisions = _decide(shards, out, embedder, threshold, view or View(quiet=True))
        files, counts = _write(shards, decisions, out)
        sources = {shard.name: file_digest(shard.dataset / "train.parquet") for shard in shards}
        folder.record("merge", {"shards": sources, "threshold": threshold, **counts}, files)
    return counts


def _decide(shards: Sequence[Shard], out: Path, embedder: Embedder, threshold: float, view: View) -> list[Decision]:
    texts = [text for shard in shards for text in shard.texts]
    scores = [score for shard in shards for score in shard.scores]
    if not texts:
        return []
    vectors = _embed(texts, out, embedder, view)
    view.note(f"  comparing {len(texts):,} rows")
    pool = np.zeros((0, vectors.shape[1]), np.float32)
    return greedy_dedup(vectors, scores, pool, threshold, texts=DedupTexts(texts, []), neighbours=False)


def _embed(texts: Sequence[str], folder: Path, embedder: Embedder, view: View) -> Vectors:
    """Embed all texts into a file, so that memory holds only the vectors in use."""
    stored = VectorFile(folder, embedder.encode(texts[:1]).shape[1])
    with view.bars():
        for start in range(0, len(texts), _BLOCK):
            vectors = embedder.encode(texts[start : start + _BLOCK])
            stored.append(vectors)
            view.progress("rows embedded", start + len(vectors), len(texts))
    return stored.read(len(texts))


def _write(shards: Sequence[Shard], decisions: Sequence[Decision], out: Path) -> tuple[list[Path], dict[str, int]]:
    ids = [name for shard in shards for name in shard.ids]
    following = iter(decisions)
    kept = [[name for name in shard.ids if next(following).kept] for shard in shards]
    dropped = [
        {"id": name, "repeats": ids[d.neighbour], "stage": d.stage, "similarity": d.similarity}
        for name, d in zip(ids, decisions, strict=True)
        if not d.kept and d.neighbour is not None
    ]
    dataset = make_folder(out / "dataset")
    files = [
        _filtered(shards, "train", TRAIN_SCHEMA, kept, dataset),
        _filtered(shards, "preferences", PREFERENCE_SCHEMA, kept, dataset),
    ]
    with atomic_path(out / "dropped.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(dropped, schema=_DROPPED), temporary, compression="zstd")
    counts = {"rows": sum(map(len, kept)), "dropped": len(dropped)}
    with atomic_path(dataset / "README.md") as temporary:
        names = ", ".join(shard.name for shard in shards)
        temporary.write_text(_CARD.format(shards=len(shards), names=names, **counts), encoding="utf-8")
    return [*files, out / "dropped.parquet", dataset / "README.md"], counts


def _filtered(
    shards: Sequence[Shard], part: str, schema: pa.Schema, kept: Sequence[Sequence[str]], dataset: Path
) -> Path:
    """Write one part of the dataset, a shard at a time, under ids that name the shard; `kept` is by shard."""
    target = dataset / f"{part}.parquet"
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for shard, stay in zip(shards, kept, strict=True):
            file = shard.dataset / f"{part}.parquet"
            if not file.is_file():
                continue
            table = pq.read_table(file, schema=schema)
            ids = pc.binary_join_element_wise(shard.name, table["id"], "/")
            table = table.set_column(schema.get_field_index("id"), schema.field("id"), ids)
            writer.write_table(table.filter(pc.is_in(ids, pa.array(stay, pa.string()))))
    return target
