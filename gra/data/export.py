"""Out of a run: training rows, disputed rows, preference pairs, the lineage of every candidate, and the dataset card.

`dataset/` is whole in itself: `datasets.load_dataset("runs/NAME/dataset", "preferences")` loads any part, and what is
pushed to the hub is this folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.manifest import atomic_path, canonical_json
from gra.core.records import SECOND_BEST, Candidate, State

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# TRL's conversational prompt-completion form, and who and what the row is.
TRAIN_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("completion", _MESSAGES),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("score", pa.float64()),
        ("round", pa.int32()),
    ]
)
CONTESTED_SCHEMA = pa.schema(
    [
        *TRAIN_SCHEMA,
        ("state", pa.string()),
        ("reviews", pa.string()),
        ("ruling", pa.string()),
        ("reason", pa.string()),
        ("std", pa.float64()),
    ]
)
# TRL's conversational preference form with an explicit prompt, and the scores (0-10) that decided.
PREFERENCE_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("reason", pa.string()),
    ]
)
_TEXTS = (
    "id", "domain", "state", "reason", "arm", "generator", "adjudicator",
    "instruction", "tests", "response", "neighbour",
)  # fmt: skip
_LISTS = ("reviewers", "parents", "keywords", "calls")
_JSON = ("checks", "programs", "reviews", "ruling", "drafts", "usage")  # nested records travel as canonical JSON
LINEAGE_SCHEMA = pa.schema(
    [("candidate_id", pa.string()), ("round", pa.int32()), ("index", pa.int32())]
    + [(name, pa.string()) for name in _TEXTS[1:]]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
    + [("mean", pa.float64()), ("std", pa.float64()), ("similarity", pa.float64()), ("disputed", pa.bool_())]
    + [(name, pa.string()) for name in _JSON]
    + [("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())]
)

SCHEMAS = {
    "train": TRAIN_SCHEMA, "contested": CONTESTED_SCHEMA, "preferences": PREFERENCE_SCHEMA, "lineage": LINEAGE_SCHEMA
}  # fmt: skip


def training_row(candidate: Candidate) -> dict[str, Any]:
    """One row in conversational prompt-completion form."""
    return {
        "prompt": [{"role": "user", "content": candidate.instruction}],
        "completion": [{"role": "assistant", "content": candidate.response}],
        "id": candidate.id,
        "domain": candidate.domain,
        "score": candidate.mean,
        "round": candidate.round,
    }


def contested_row(candidate: Candidate) -> dict[str, Any]:
    """A disputed row with every review, the ruling, and how it ended."""
    story = candidate.to_json()
    return training_row(candidate) | {
        "state": candidate.state.value,
        "reviews": canonical_json(story["reviews"]),
        "ruling": canonical_json(story["ruling"]),
        "reason": candidate.reason,
        "std": candidate.std,
    }


def preference_rows(candidate: Candidate) -> list[dict[str, Any]]:
    """The accepted response against each draft of the same prompt whose deciding score was lower."""
    chosen = candidate.verdict_score
    if candidate.state is not State.ACCEPTED or chosen is None:
        return []
    row = training_row(candidate)
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": [{"role": "assistant", "content": draft.response}],
            "id": candidate.id,
            "domain": candidate.domain,
            "score_chosen": chosen,
            "score_rejected": draft.verdict_score,
            "reason": draft.reason,
        }
        for draft in candidate.drafts
        if draft.verdict_score is not None and draft.verdict_score < chosen
    ]


def round_rows(candidates: Sequence[Candidate]) -> dict[int, list[dict[str, Any]]]:
    """The rows of each round, for `dataset/rounds/N.parquet`; empty when there was only one."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for candidate in candidates:
        if candidate.state is State.ACCEPTED:
            rounds.setdefault(candidate.round, []).append(training_row(candidate))
    return rounds if len(rounds) > 1 else {}


def lineage_row(candidate: Candidate) -> dict[str, Any]:
    """One candidate's whole story as one row."""
    story = candidate.to_json()
    usage = candidate.usage.values()
    return (
        {"candidate_id": candidate.id, "round": candidate.round, "index": candidate.index}
        | {name: str(story[name]) for name in _TEXTS[1:]}
        | {name: list(story[name]) for name in _LISTS}
        | {name: story[name] for name in ("mean", "std", "similarity", "disputed")}
        | {name: canonical_json(story[name]) for name in _JSON}
        | {
            "prompt_tokens": sum(u.prompt_tokens for u in usage),
            "completion_tokens": sum(u.completion_tokens for u in usage),
        }
    )


def dataset_rows(candidates: Sequence[Candidate]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every file of a dataset; nothing but the candidates decides them."""
    accepted = [c for c in candidates if c.state is State.ACCEPTED]
    return {
        "train": [training_row(c) for c in accepted],
        "contested": [contested_row(c) for c in candidates if c.disputed],
        "preferences": [pair for c in accepted for pair in preference_rows(c)],
        "lineage": [lineage_row(c) for c in candidates],
    }


def export(folder: Path, candidates: Sequence[Candidate], facts: Mapping[str, Any]) -> list[Path]:
    """Write `dataset/` and `lineage.parquet` into a run folder and return the files."""
    dataset, parts, rounds = folder / "dataset", dataset_rows(candidates), round_rows(candidates)
    files = [_parquet(dataset / f"{name}.parquet", rows, SCHEMAS[name]) for name, rows in parts.items()]
    files += [_parquet(dataset / "rounds" / f"{n}.parquet", rows, TRAIN_SCHEMA) for n, rows in rounds.items()]
    for stale in set((dataset / "rounds").glob("*.parquet")) - set(files):  # an earlier run had more rounds
        stale.unlink()
    files += [_twin(dataset / "lineage.parquet", folder / "lineage.parquet"), dataset / "README.md"]
    with atomic_path(dataset / "README.md") as temporary:
        temporary.write_text(card(parts, facts), encoding="utf-8")
    return files


def _twin(source: Path, target: Path) -> Path:
    """The same file in another folder, without its bytes twice where the file system can do that."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return target


def _parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def read_lineage(path: Path) -> list[dict[str, Any]]:
    """Lineage rows with their nested records parsed."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    # A lineage of an earlier version lacks the columns that came later.
    return [row | {name: json.loads(row.get(name) or "[]") for name in _JSON} for row in rows]


def read_candidates(path: Path) -> list[Candidate]:
    """The candidates of a lineage file, as they were when it was written."""
    known = {field.name for field in fields(Candidate)}
    told = (row | {"id": row["candidate_id"]} for row in read_lineage(path))
    return [Candidate.from_json({name: value for name, value in row.items() if name in known}) for row in told]


def card(parts: Mapping[str, Sequence[Mapping[str, Any]]], facts: Mapping[str, Any]) -> str:
    """The dataset card: what the rows are, who wrote them, under which licences, and what to beware of."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pairs = parts["preferences"]
    rounds = sorted({row["round"] for row in parts["train"]})
    return environment.get_template("card.jinja").render(
        rows=len(parts["train"]),
        parts={name: len(rows) for name, rows in parts.items()},
        domains=Counter(row["domain"] for row in parts["train"]),
        rounds=rounds if len(rounds) > 1 else [],
        pairs=len(pairs),
        second_best=sum(pair["reason"] == SECOND_BEST for pair in pairs),
        margin=median(pair["score_chosen"] - pair["score_rejected"] for pair in pairs) if pairs else 0.0,
        **facts,
    )
