"""Curate the dataset of a run: discard the rows that students of trusted seeds find wrong from early on.

The new folder holds the kept rows as a dataset, and a control of equal size: rows drawn at random. Beside the dataset
are the dropped rows and the figures of all rows. The run itself stays as it is.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gra.core.errors import DataError, EngineUnavailable, NoRows, RecipeError, writing
from gra.core.files import atomic_path, make_folder, refuse_special_files
from gra.core.hashing import digest, file_digest
from gra.core.processes.background import run
from gra.core.progress import View
from gra.core.rng import rng
from gra.core.run_folder import RunFolder
from gra.core.vocabulary import CallPurpose
from gra.engines.broker import Broker, EnginePool
from gra.engines.types import Answer, Call, Likelihood, ModelId, SamplingSettings, is_infrastructure_failure
from gra.ledger.ledger import Ledger
from gra.stats.dynamics import (
    LearningDynamics,
    confidence_threshold,
    discarded,
    learning_dynamics,
    uncertainty_threshold,
)
from gra.training.curation.checkpoint_engine import CheckpointEngine, checkpoint_model
from gra.training.curation.effects import Effects, measure_effects
from gra.training.curation.students import TrustedStudent, read_student
from gra.training.data.dataset import Row, read_rows

Table = NDArray[np.float64]
SECTION = "curation"
_FEW = 20  # seeds below which a 5 % quantile is hardly more than the smallest value
_GREEDY = SamplingSettings(0.0, 1.0, 1.0, 1)
_CARD = """---
configs:
- config_name: train
  data_files: train.parquet
  default: true
- config_name: random
  data_files: random.parquet
---

# Curated dataset

{kept:,} of {rows:,} rows of {run}. {dropped:,} rows were discarded by learning dynamics (Curated LLM, arXiv
2312.12112). Students of trusted seeds were at most {confidence:.4f} sure of them over {checkpoints} checkpoints, and at
most {uncertainty:.4f} uncertain. `dropped.parquet` beside this folder lists them with these figures. `random` holds as
many rows as were kept, drawn at random from all: a student of it shows what curation was worth.

Curation favors what the students know. Compare the diversity in `manifest.json` before you rely on it.
"""


@dataclass(frozen=True)
class _Scored:
    """Figures of all rows: learning dynamics, probabilities by checkpoint, answer tokens.

    `last` holds the probabilities by the last checkpoint, as means over the students.
    """

    dynamics: LearningDynamics
    probabilities: Table
    last: Table
    tokens: Table
    trusted: Table


def curate(
    run_folder: Path, students: Sequence[Path], output: Path, *, quantile: float = 0.05, view: View | None = None
) -> dict[str, Any]:
    """Write the curated version of a run's dataset, and return the manifest's facts of it.

    Args:
        run_folder: a finished synthesis run, or a merged one.
        students: folders that `gra train` wrote, of students trained on seeds alone. With several, figures are means.
        output: the folder of the curated version.
        quantile: share of the trusted seeds that the confidence threshold would discard.
        view: shows progress.

    Raises:
        DataError: when the run or a student is not finished.
        RecipeError: when a student has too few checkpoints or no held-out seeds, or the folders overlap.
        NoRows: when no row is left.
    """
    view = view or View(quiet=True)
    dataset = _dataset(run_folder)
    _check_output(run_folder, output)
    trusted = [read_student(student, dataset) for student in students]
    if not trusted:
        raise RecipeError("curation needs at least one student; name its folder with `--student`")
    rows = read_rows(dataset)
    held = sum(len(student.heldout) for student in trusted)
    if held < _FEW:
        view.note(f"! only {held} trusted seeds set the threshold; {_FEW} or more make it steadier")
    folder = RunFolder(output).create()
    with folder.lock(), writing(output):
        with view.stage("curation", f"{len(rows)} rows, students: {len(trusted)}"), view.bars():
            scored = run(_score(trusted, rows, output / "ledger.sqlite", view))
        facts, files = _write(run_folder, dataset, output, scored, quantile)
        facts["students"] = {str(s.folder): [step for step, _ in s.checkpoints] for s in trusted}
        folder.record(SECTION, facts, files)
    return facts


def _dataset(run_folder: Path) -> Path:
    """Return the dataset's file of a finished run, checked against its manifest."""
    if not run_folder.is_dir():
        raise DataError(f"{run_folder} does not exist; give the folder of a synthesis run")
    refuse_special_files(run_folder)
    file = run_folder / "dataset" / "train.parquet"
    manifest = RunFolder(run_folder).manifest()
    known: dict[str, str] = {}
    for section in ("synthesis", "merge"):
        known |= manifest.get(section, {}).get("files", {})
    if "dataset/train.parquet" not in known or not file.is_file():
        raise DataError(f"{run_folder} holds no finished dataset; let its run end, and curate then")
    if file_digest(file) != known["dataset/train.parquet"]:
        raise DataError(f"{file} is not the file that its manifest knows; see `gra verify {run_folder}`")
    return file


def _check_output(run_folder: Path, output: Path) -> None:
    here, there = output.resolve(), run_folder.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise RecipeError(f"{output} is the run {run_folder}, or in it or around it; give the curated version a folder "
                          "beside it, with `--output`")  # fmt: skip
    if others := [name for name in RunFolder(output).manifest() if name not in ("manifest_version", SECTION)]:
        raise RecipeError(f"{output} holds what `{others[0]}` wrote; give the curated version a folder of its own")


async def _score(students: Sequence[TrustedStudent], rows: Sequence[Row], ledger_file: Path, view: View) -> _Scored:
    """Ask every checkpoint of every student about all rows, and about the seeds that the student did not learn from."""
    ledger = Ledger(ledger_file, run=SECTION)
    parts, probabilities, trusted, tokens = [], [], [], np.full(len(rows), math.nan)
    done, total = 0, sum(len(s.checkpoints) * (len(rows) + len(s.heldout)) for s in students)
    try:
        for student in students:
            asked = [*rows, *student.heldout]
            table = np.empty((len(student.checkpoints), len(asked)))
            for place, (_, checkpoint) in enumerate(student.checkpoints):
                model = checkpoint_model(student, checkpoint)
                pool = EnginePool({model.name: CheckpointEngine(student, checkpoint, model.name)}, math.inf)
                broker = Broker(ledger, pool, max_attempts=1)
                try:
                    found = await asyncio.gather(*(_likelihood(broker, model, row) for row in asked))
                finally:
                    await pool.swapper.close()
                table[place] = [p for p, _ in found]
                tokens = np.array([count for _, count in found[: len(rows)]])
                done += len(asked)
                view.progress("likelihoods", done, total)
            parts.append(learning_dynamics(table[:, : len(rows)]))
            probabilities.append(table[:, : len(rows)])
            trusted.append(learning_dynamics(table[:, len(rows) :]).confidence)
    finally:
        ledger.close()
    whole = LearningDynamics(
        np.mean([part.confidence for part in parts], axis=0), np.mean([part.uncertainty for part in parts], axis=0)
    )
    last = np.mean([table[-1] for table in probabilities], axis=0)
    return _Scored(whole, np.concatenate(probabilities), last, tokens, np.concatenate(trusted))


async def _likelihood(broker: Broker, model: ModelId, row: Row) -> tuple[float, float]:
    """Return the probability of an answer a token (its geometric mean), and its tokens; NaN where it has none.

    Raises:
        EngineUnavailable: when the checkpoint failed; what was answered is recorded.
    """
    messages = tuple((message["role"], message["content"]) for message in row.prompt)
    output = Likelihood(row.completion[0]["content"])
    call = Call(model, messages, output, _GREEDY, role=CallPurpose.STUDENT, candidate=row.origin, member=model.name)
    outcome = await broker.ask(call)
    if isinstance(outcome, Answer):
        count = float(outcome.value["tokens"])
        return math.exp(min(0.0, outcome.value["logprob"] / count)), count
    if is_infrastructure_failure(outcome):
        raise EngineUnavailable(f"{model.name} could not be asked ({outcome.message}); run the same command again")
    return math.nan, math.nan


def _write(
    run_folder: Path, dataset: Path, output: Path, scored: _Scored, quantile: float
) -> tuple[dict[str, Any], list[Path]]:
    table = pq.read_table(dataset)
    confidence = confidence_threshold(scored.trusted, quantile)
    uncertainty = uncertainty_threshold(scored.dynamics.uncertainty)
    out = discarded(scored.dynamics, confidence, uncertainty)
    if out.all():
        raise NoRows(
            f"all {len(out)} rows of {run_folder} would be discarded: the students are less sure of them than of "
            f"{1 - quantile:.0%} of the seeds. Take seeds of the same domains, or lower `--quantile`"
        )
    kept = np.flatnonzero(~out)
    drawn = sorted(rng(0, SECTION, "random").sample(range(len(out)), len(kept)))
    figures = (
        table.append_column("confidence", pa.array(_plain(scored.dynamics.confidence), pa.float64()))
        .append_column("uncertainty", pa.array(_plain(scored.dynamics.uncertainty), pa.float64()))
        .append_column("answer_tokens", pa.array(_plain(scored.tokens), pa.float64()))
        .append_column("probabilities", pa.array([_plain(p) for p in scored.probabilities.T], pa.list_(pa.float64())))
        .append_column("kept", pa.array(~out))
    )
    folder = make_folder(output / "dataset")
    written = {
        folder / "train.parquet": table.take(kept),
        folder / "random.parquet": table.take(drawn),
        output / "dropped.parquet": figures.filter(pa.array(out)),
        output / "figures.parquet": figures.drop_columns(["prompt", "completion"]),
    }
    for path, content in written.items():
        with atomic_path(path) as temporary:
            pq.write_table(content, temporary, compression="zstd")
    answers = [row[0]["content"] for row in table["completion"].to_pylist()]
    effects: Effects = measure_effects(answers, scored.dynamics, scored.last, scored.tokens, out)
    facts = {
        "run": str(run_folder),
        "dataset": file_digest(dataset),
        "fingerprint": digest([file_digest(dataset), [_plain(p) for p in scored.probabilities], quantile]),
        "rows": len(out),
        "kept": len(kept),
        "dropped": int(out.sum()),
        "unscored": int(np.isnan(scored.dynamics.confidence).sum()),
        "trusted": int(np.count_nonzero(~np.isnan(scored.trusted))),
        "quantile": quantile,
        "confidence": confidence,
        "uncertainty": uncertainty,
        "domains": _shares(table, out),
        "effects": effects.to_json(),
    }
    with atomic_path(folder / "README.md") as temporary:
        shown = facts | {"run": run_folder.resolve().name, "checkpoints": len(scored.probabilities)}
        temporary.write_text(_CARD.format(**shown), encoding="utf-8")
    return facts, [*written, folder / "README.md"]


def _plain(values: Table) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def _shares(table: pa.Table, out: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Count rows and dropped rows by domain: curation must not remove what is new as a whole."""
    if "domain" not in table.column_names:
        return {}
    domains = [name or "" for name in table["domain"].to_pylist()]
    gone = Counter(name for name, dropped in zip(domains, out, strict=True) if dropped)
    return {name: [count, gone[name]] for name, count in sorted(Counter(domains).items())}
