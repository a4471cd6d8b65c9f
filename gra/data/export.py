"""Out of a run: training rows, disputed rows, the lineage of every candidate, and the dataset card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.manifest import atomic_path, canonical_json
from gra.core.records import Candidate, State

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# TRL's conversational prompt-completion form, and who and what the row is.
TRAIN_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("completion", _MESSAGES),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("score", pa.float64()),
    ]
)
CONTESTED_SCHEMA = pa.schema([*TRAIN_SCHEMA, ("state", pa.string()), ("reviews", pa.string()), ("ruling", pa.string())])
_TEXTS = ("id", "domain", "state", "reason", "arm", "generator", "adjudicator", "instruction", "response", "neighbour")
_LISTS = ("reviewers", "parents", "keywords", "calls")
_JSON = ("checks", "programs", "reviews", "ruling", "usage")  # nested records travel as canonical JSON
LINEAGE_SCHEMA = pa.schema(
    [("candidate_id", pa.string()), ("round", pa.int32()), ("index", pa.int32())]
    + [(name, pa.string()) for name in _TEXTS[1:]]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
    + [("mean", pa.float64()), ("std", pa.float64()), ("similarity", pa.float64()), ("disputed", pa.bool_())]
    + [(name, pa.string()) for name in _JSON]
    + [("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())]
)


def training_row(candidate: Candidate) -> dict[str, Any]:
    """One row in conversational prompt-completion form."""
    return {
        "prompt": [{"role": "user", "content": candidate.instruction}],
        "completion": [{"role": "assistant", "content": candidate.response}],
        "id": candidate.id,
        "domain": candidate.domain,
        "score": candidate.mean,
    }


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


def export(folder: Path, candidates: Sequence[Candidate], facts: Mapping[str, Any]) -> list[Path]:
    """Write `dataset/` and `lineage.parquet` into a run folder and return the files."""
    accepted = [c for c in candidates if c.state is State.ACCEPTED]
    contested = [
        training_row(c)
        | {
            "state": c.state.value,
            "reviews": canonical_json(c.to_json()["reviews"]),
            "ruling": canonical_json(c.to_json()["ruling"]),
        }
        for c in candidates
        if c.disputed
    ]
    dataset = folder / "dataset"
    files = [
        _parquet(dataset / "train.parquet", [training_row(c) for c in accepted], TRAIN_SCHEMA),
        _parquet(dataset / "contested.parquet", contested, CONTESTED_SCHEMA),
        _parquet(folder / "lineage.parquet", [lineage_row(c) for c in candidates], LINEAGE_SCHEMA),
        dataset / "README.md",
    ]
    with atomic_path(dataset / "README.md") as temporary:
        temporary.write_text(card(accepted, facts), encoding="utf-8")
    return files


def _parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def read_lineage(path: Path) -> list[dict[str, Any]]:
    """Lineage rows with their nested records parsed."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    # A run made before programs reviewed has no column for them.
    return [row | {name: json.loads(row.get(name) or "[]") for name in _JSON} for row in rows]


def card(accepted: Sequence[Candidate], facts: Mapping[str, Any]) -> str:
    """The dataset card: what the rows are, who wrote them, under which licences, and what to beware of."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    domains: dict[str, int] = {}
    for candidate in accepted:
        domains[candidate.domain] = domains.get(candidate.domain, 0) + 1
    return environment.get_template("card.jinja").render(rows=len(accepted), domains=domains, **facts)
