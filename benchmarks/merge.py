"""What making one dataset of many runs costs: time and memory.

Run as: python benchmarks/merge.py [--shards 100] [--rows 10000] [--folder DIR] [--json FILE]

The runs are written first: rows of about 2.5 KB, half of them with a preference, none of it asked of a model. Their
vectors are drawn like sentence embeddings, one row in ten near an earlier one (`dedup.py`); the embedding model itself
is timed beside it on words of our seeds, for it is most of a real merge.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from dedup import THRESHOLD, Memory, draw

from gra.core.files import write_json
from gra.core.run_folder import RunFolder, environment
from gra.data.dedup.nearest import Matrix, Vectors
from gra.data.embedder import Embedder
from gra.data.export import PREFERENCE_SCHEMA, TRAIN_SCHEMA
from gra.data.merge import merge
from gra.models.catalog import resolve

WORDS = (Path(__file__).parent.parent / "recipes" / "seeds" / "quickstart.jsonl").read_text(encoding="utf-8").split()
EMBEDDED = 2_000


class Drawn:
    """The vectors of rows that carry their number in front."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Vectors of the texts, shape (texts, 384)."""
        first = int(texts[0].split(maxsplit=1)[0])
        return self._vectors[np.arange(first, first + len(texts))]


def text(luck: random.Random, words: int) -> str:
    """Some words."""
    return " ".join(luck.choices(WORDS, k=words))


def write_run(folder: Path, first: int, count: int) -> Path:
    """A finished run of `count` rows; the first has the number `first`."""
    luck = random.Random(first)
    train, pairs = [], []
    for number in range(count):
        said = {
            "prompt": [{"role": "user", "content": f"{first + number} {text(luck, 60)}"}],
            "id": f"r1-{number:06d}", "domain": luck.choice(["math", "coding", "qa"]),
        }  # fmt: skip
        answer = [{"role": "assistant", "content": text(luck, 250)}]
        train.append({**said, "completion": answer, "score": luck.randint(80, 100) / 10, "round": 1})
        if number % 2:
            worse = [{"role": "assistant", "content": text(luck, 250)}]
            scores = {"score_chosen": 9.0, "score_rejected": 5.0, "reason": "adjudicated"}
            pairs.append({**said, "chosen": answer, "rejected": worse, **scores})
    dataset = RunFolder(folder).create() / "dataset"
    dataset.mkdir(exist_ok=True)
    files = [dataset / "train.parquet", dataset / "preferences.parquet"]
    pq.write_table(pa.Table.from_pylist(train, schema=TRAIN_SCHEMA), files[0], compression="zstd")
    pq.write_table(pa.Table.from_pylist(pairs, schema=PREFERENCE_SCHEMA), files[1], compression="zstd")
    RunFolder(folder).record("synthesis", {"name": folder.name}, files)
    return folder


def embedding_rate() -> float:
    """Rows a second of the embedding model on instructions of 60 words."""
    luck, embedder = random.Random(0), Embedder(resolve("all-minilm-l6-v2").path)
    texts = [text(luck, 60) for _ in range(EMBEDDED)]
    embedder.encode(texts[:64])
    begun = time.monotonic()
    embedder.encode(texts)
    return EMBEDDED / (time.monotonic() - begun)


def measure(shards: int, rows: int, folder: Path) -> dict[str, Any]:
    """One merge."""
    vectors = draw(shards * rows, folder).read(shards * rows)
    runs = [write_run(folder / f"shard-{n}", n * rows, rows) for n in range(shards)]
    size = sum(file.stat().st_size for run in runs for file in (run / "dataset").iterdir()) / 2**30
    begun = time.monotonic()
    with Memory() as memory:
        counts = merge(runs, folder / "merged", Drawn(vectors), THRESHOLD)
    return {
        "shards": shards,
        "read": shards * rows,
        "gb": size,
        "seconds": time.monotonic() - begun,
        "kept": counts["rows"],
        "dropped": counts["dropped"],
        "resident_gb": memory.resident,
        "own_gb": memory.own,
    }


def main(
    shards: int = 100,
    rows: int = 10_000,
    folder: Annotated[Path | None, typer.Option(help="where the runs are written; default: a temporary folder")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one line."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        found = measure(shards, rows, Path(temporary))
    found["embedded_rows_a_second"] = embedding_rate()
    print(", ".join(f"{key} {value:,.4g}" for key, value in found.items()))
    if json_file:
        write_json(json_file, {"merge": found, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
