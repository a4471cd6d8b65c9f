"""What exact deduplication costs: wall time and memory at 10,000, 100,000 and 1,000,000 vectors of 384 numbers.

Run as: python benchmarks/dedup.py [10000 100000 1000000] [--mapped] [--folder DIR] [--json FILE]

Vectors are drawn to resemble sentence embeddings: a direction common to all, topics within fields, and noise, with a
spectrum that falls off; the last lines say how much of it the first directions hold and how similar random pairs are.
One row in ten is an earlier row with a little noise, at a cosine of 0.85 to 0.999. They lie in a file in DIR (1.5 GB
for a million), as in a run. At 10,000 the outcome is compared with brute force.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.data.dedup.greedy import Decision, greedy_dedup
from gra.data.dedup.nearest import Matrix, QuantizedPrefilter, Vectors
from gra.data.dedup.vectors import VectorFile

DIMENSIONS = 384
THRESHOLD = 0.9
BRUTE_FORCE_UP_TO = 10_000
_PART = 2_000  # rows drawn at a time


def draw(count: int, folder: Path, seed: int = 0) -> VectorFile:
    """Vectors like sentence embeddings, unit rows, shape (count, 384), in a file."""
    luck = np.random.default_rng(seed)
    spectrum = ((1 + np.arange(DIMENSIONS) / 8.0) ** -0.55).astype(np.float32)
    axes = np.linalg.qr(luck.standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    common = luck.standard_normal(DIMENSIONS, np.float32) * spectrum
    fields = luck.standard_normal((60, DIMENSIONS), np.float32) * spectrum
    topics = luck.standard_normal((max(60, count // 200), DIMENSIONS), np.float32) * spectrum
    shelf = VectorFile(folder, DIMENSIONS)
    for start in range(0, count, _PART):
        size = min(_PART, count - start)
        topic = luck.integers(len(topics), size=size)
        drawn = luck.standard_normal((size, DIMENSIONS), np.float32) * spectrum
        drawn += 0.8 * topics[topic] + 0.6 * fields[topic % len(fields)] + 0.35 * common
        drawn = unit((drawn @ axes.T).astype(np.float32))
        if start:
            copies = np.flatnonzero(luck.random(size) < 0.1)
            of = shelf.read(start)[np.sort(luck.integers(start, size=len(copies)))]
            angle = np.tan(np.arccos(luck.uniform(0.85, 0.999, (len(copies), 1)))).astype(np.float32)
            drawn[copies] = unit(of + angle * unit(luck.standard_normal((len(copies), DIMENSIONS), np.float32)))
        shelf.append(drawn)
    return shelf


def unit(rows: Matrix) -> Matrix:
    """Rows of length 1."""
    found: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def describe(rows: Vectors) -> dict[str, float]:
    """How these vectors look: energy of the first 32 and 128 directions, and cosines of random pairs."""
    sample = rows[np.linspace(0, len(rows) - 1, 4000).astype(int)]
    energy = np.linalg.eigvalsh(sample.T.astype(np.float64) @ sample)[::-1]
    cosines = (sample[:1000] @ sample[1000:].T).ravel()
    return {
        "energy_32": float(energy[:32].sum() / energy.sum()),
        "energy_128": float(energy[:128].sum() / energy.sum()),
        "pair_mean": float(cosines.mean()),
        "pair_std": float(cosines.std()),
        "pair_99.9": float(np.quantile(cosines, 0.999)),
    }


def brute_force(rows: Vectors, scores: np.ndarray) -> list[bool]:
    """The definition: every row against everything kept before it, in float64."""
    order = np.argsort(-scores, kind="stable")
    exact = rows[order].astype(np.float64)
    kept = np.zeros(len(rows), bool)
    for start in range(0, len(rows), 500):
        similar = exact[start : start + 500] @ exact[: start + 500].T >= THRESHOLD
        for place, row in enumerate(similar, start):
            kept[place] = not (row[:place] & kept[:place]).any()
    found = np.empty(len(rows), bool)
    found[order] = kept
    return [bool(each) for each in found]


class Memory:
    """The most memory of this process while the block runs, in GB: resident, and what is not a mapped file."""

    def __enter__(self) -> Memory:
        self.resident = self.own = 0.0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.2):
            now = psutil.Process().memory_info()
            self.resident = max(self.resident, now.rss / 2**30)
            self.own = max(self.own, (now.rss - now.shared) / 2**30)

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watch.join()


def measure(count: int, folder: Path, mapped: bool) -> dict[str, Any]:
    """One row of the table."""
    shelf = draw(count, folder)
    rows = shelf.mapped(count) if mapped else shelf.read(count)
    scores = np.random.default_rng(1).integers(80, 101, count) / 10
    nothing = np.empty((0, DIMENSIONS), np.float32)
    looks = describe(rows)
    screen = QuantizedPrefilter.fit(rows, THRESHOLD)
    found: dict[str, Any] = {"rows": count, **looks, "directions": None if screen is None else screen.width - 1}
    ways = {"decisions": False} | ({"with_neighbours": True} if count <= 100_000 else {})
    outcome: dict[str, list[Decision]] = {}
    for name, neighbours in ways.items():
        with Memory() as memory:
            begun, busy = time.monotonic(), time.process_time()
            outcome[name] = greedy_dedup(rows, scores.tolist(), nothing, THRESHOLD, neighbours=neighbours)
            found[f"{name}_s"] = time.monotonic() - begun
            found[f"{name}_cpu_s"] = time.process_time() - busy
        found |= {f"{name}_resident_gb": memory.resident, f"{name}_own_gb": memory.own}
    kept = [decision.kept for decision in outcome["decisions"]]
    found["kept"] = sum(kept)
    if count <= BRUTE_FORCE_UP_TO:
        assert kept == brute_force(rows, scores), "not what brute force says"
        assert kept == [decision.kept for decision in outcome["with_neighbours"]]
    return found


def main(
    counts: Annotated[list[int] | None, typer.Argument()] = None,
    folder: Path | None = None,
    mapped: Annotated[bool, typer.Option(help="map the file into memory in place of reading from it")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    print("| rows | kept | decisions only, s | CPU s | with all neighbours, s | resident GB | of its own GB |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for count in counts or [10_000, 100_000, 1_000_000]:
            row = measure(count, Path(temporary), mapped)
            rows.append(row)
            full = f"{row['with_neighbours_s']:.1f}" if "with_neighbours_s" in row else "not run"
            took = f"{row['decisions_s']:.1f} | {row['decisions_cpu_s']:.1f} | {full}"
            memory = f"{row['decisions_resident_gb']:.2f} | {row['decisions_own_gb']:.2f}"
            print(f"| {count:,} | {row['kept']:,} | {took} | {memory} |", flush=True)
    for row in rows:
        print(
            f"{row['rows']:,}: the first 32 directions hold {row['energy_32']:.0%}, 128 {row['energy_128']:.0%}; "
            f"random pairs {row['pair_mean']:.2f} +- {row['pair_std']:.2f}, 1 in 1000 above {row['pair_99.9']:.2f}; "
            f"screen of {row['directions']} directions"
        )
    if json_file:
        cores = len(os.sched_getaffinity(0))
        made = {"threshold": THRESHOLD, "mapped": mapped, "cores": cores, "environment": environment()}
        write_json(json_file, made | {"rows": rows})


if __name__ == "__main__":
    typer.run(main)
