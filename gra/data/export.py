"""Out of a run: training rows, disputed rows, preference pairs, the lineage of every candidate, and the dataset card.

`dataset/` is whole in itself: `datasets.load_dataset("runs/NAME/dataset", "preferences")` loads any part, and what is
pushed to the hub is this folder.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.core.hashing import canonical_json
from gra.core.stored.lineage import Lineage
from gra.core.stored.reader import check_type
from gra.core.types import SECOND_BEST, Candidate, State

_GROUP = 4096  # rows in memory at a time, and in a row group of a file
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
# Nested records travel as canonical JSON.
_JSON = ("checks", "programs", "reviews", "ruling", "drafts", "contamination", "usage")
_ABSENT = {"ruling": "null", "contamination": "null", "usage": "{}"}  # of the others: an empty list
# Columns that a Candidate does not hold.
_LINEAGE_ONLY = ("candidate_id", "prompt_tokens", "completion_tokens")
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
        for draft in candidate.alternatives
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


def rows_of(candidate: Candidate) -> dict[str, list[dict[str, Any]]]:
    """What a candidate gives to every file of a dataset; nothing else decides their rows."""
    return {
        "train": [training_row(candidate)] if candidate.state is State.ACCEPTED else [],
        "contested": [contested_row(candidate)] if candidate.disputed else [],
        "preferences": preference_rows(candidate),
        "lineage": [lineage_row(candidate)],
    }


def dataset_rows(candidates: Sequence[Candidate]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every file of a dataset."""
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for candidate in candidates:
        for name, rows in rows_of(candidate).items():
            parts[name] += rows
    return parts


class _Content:
    """What the card says of the rows, added up while they are written."""

    def __init__(self) -> None:
        self.parts = dict.fromkeys(SCHEMAS, 0)
        self.domains: Counter[str] = Counter()
        self.rounds: Counter[int] = Counter()
        self.second_best = 0
        self.margins = array("d")

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        self.parts[name] += 1
        if name == "train":
            self.domains[row["domain"]] += 1
            self.rounds[row["round"]] += 1
        elif name == "preferences":
            self.second_best += row["reason"] == SECOND_BEST
            self.margins.append(row["score_chosen"] - row["score_rejected"])

    def facts(self) -> dict[str, Any]:
        return {
            "rows": self.parts["train"],
            "parts": self.parts,
            "domains": self.domains,
            "rounds": sorted(self.rounds) if len(self.rounds) > 1 else [],
            "pairs": self.parts["preferences"],
            "second_best": self.second_best,
            "margin": median(self.margins) if self.margins else 0.0,
        }


def export(folder: Path, candidates: Iterable[Candidate], facts: Mapping[str, Any]) -> list[Path]:
    """Write `dataset/` and `lineage.parquet` into a run folder and return the files.

    Candidates are gone through once, and only a few thousand rows are in memory at a time.
    """
    dataset, content = folder / "dataset", _Content()
    files = {name: dataset / f"{name}.parquet" for name in SCHEMAS}
    with ExitStack() as stack:
        parts = {name: stack.enter_context(_parquet(files[name], schema)) for name, schema in SCHEMAS.items()}
        for candidate in candidates:
            for name, rows in rows_of(candidate).items():
                for row in rows:
                    parts[name](row)
                    content.add(name, row)
    made = [*files.values(), *_rounds(dataset, content.facts()["rounds"])]
    made += [_twin(files["lineage"], folder / "lineage.parquet"), dataset / "README.md"]
    with atomic_path(dataset / "README.md") as temporary:
        temporary.write_text(card(content.facts() | dict(facts)), encoding="utf-8")
    return made


def _rounds(dataset: Path, numbers: Sequence[int]) -> list[Path]:
    """The rows of each round in a file of its own, taken from those of all; none when there was only one round."""
    folder = dataset / "rounds"
    files = {number: folder / f"{number}.parquet" for number in numbers}
    with ExitStack() as stack:
        parts = {number: stack.enter_context(_parquet(file, TRAIN_SCHEMA)) for number, file in files.items()}
        for batch in pq.ParquetFile(dataset / "train.parquet").iter_batches() if files else ():
            for row in batch.to_pylist():
                parts[row["round"]](row)
    for stale in set(folder.glob("*.parquet")) - set(files.values()):  # an earlier run had more rounds
        stale.unlink()
    return list(files.values())


def _twin(source: Path, target: Path) -> Path:
    """The same file in another folder, without its bytes twice where the file system can do that."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return target


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A file that takes rows one by one and writes them in groups."""
    waiting: list[Mapping[str, Any]] = []

    def write() -> None:
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
        waiting.clear()

    def add(row: Mapping[str, Any]) -> None:
        waiting.append(row)
        if len(waiting) == _GROUP:
            write()

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield add
        write()


def read_lineage(path: Path) -> list[dict[str, Any]]:
    """Read lineage rows with their nested records parsed.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        # A lineage of an earlier version lacks the columns that came later.
        found = [row | {name: json.loads(row.get(name) or _ABSENT.get(name, "[]")) for name in _JSON} for row in rows]
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); see `gra verify {path.parent}`") from None
    if found and not {"candidate_id", "state"} <= found[0].keys():
        raise DataError(f"{path} is no lineage (its columns are {', '.join(rows[0])})")
    check_type(found, Lineage, path)
    return found


def read_candidates(path: Path) -> list[Candidate]:
    """Read the candidates of a lineage file.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    rows = (row | {"id": row["candidate_id"]} for row in read_lineage(path))
    try:
        return [
            Candidate.from_json({name: value for name, value in row.items() if name not in _LINEAGE_ONLY})
            for row in rows
        ]
    except (KeyError, TypeError) as error:  # records with other fields than a candidate has
        raise DataError(f"{path} is damaged ({error}); run the stage that writes it again") from None


def card(facts: Mapping[str, Any]) -> str:
    """The dataset card: what the rows are, who wrote them, under which licences, and what to beware of."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("card.jinja").render(facts)
