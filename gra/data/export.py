"""Export a run: training rows, disputed rows, preference pairs, the lineage of every candidate, and the dataset card.

`dataset/` needs no other file: `datasets.load_dataset("runs/NAME/dataset", "preferences")` loads any part, and
`gra push` uploads this folder. Half of a surrogate pair is no character and cannot be written. It is replaced by
U+FFFD, and the card counts the candidates concerned.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.core.hashing import canonical_json
from gra.core.rng import rng
from gra.core.text.characters import well_formed
from gra.core.types import AlternativeResponse, Candidate, State, verifier_mode
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.lineage import GROUP, JSON_COLUMNS
from gra.data.lineage import read_candidates as read_candidates
from gra.data.lineage import read_lineage as read_lineage

Repair = Callable[[str, str], str | None]  # of an instruction and a response
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# TRL's conversational prompt-completion form, and where the row comes from.
TRAIN_SCHEMA = pa.schema(
    [
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
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
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("reason", pa.string()),
    ]
)
_TEXTS = (
    "id", "domain", "state", "reason", "arm", "generator", "adjudicator",
    "instruction", "tests", "response", "neighbour", "rejected_at", "failed_by", "thinking",
)  # fmt: skip
_LISTS = ("reviewers", "parents", "keywords", "calls")
LINEAGE_SCHEMA = pa.schema(
    [("candidate_id", pa.string()), ("round", pa.int32()), ("index", pa.int32())]
    + [(name, pa.string()) for name in _TEXTS[1:]]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
    + [("mean", pa.float64()), ("std", pa.float64()), ("similarity", pa.float64()), ("disputed", pa.bool_())]
    + [(name, pa.string()) for name in JSON_COLUMNS]
    + [("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())]
)

SCHEMAS = {
    "train": TRAIN_SCHEMA, "contested": CONTESTED_SCHEMA, "preferences": PREFERENCE_SCHEMA, "lineage": LINEAGE_SCHEMA
}  # fmt: skip


def training_row(candidate: Candidate) -> dict[str, Any]:
    """Return an accepted candidate as a row in conversational prompt-completion form."""
    return {
        "prompt": [{"role": "user", "content": candidate.instruction}],
        "completion": [{"role": "assistant", "content": candidate.response}],
        "id": candidate.id,
        "domain": candidate.domain,
        "score": candidate.mean,
        "round": candidate.round,
    }


def contested_row(candidate: Candidate) -> dict[str, Any]:
    """Return a disputed candidate as a row with every review, the ruling, and how it ended."""
    record = candidate.to_json()
    return training_row(candidate) | {
        "state": candidate.state.value,
        "reviews": canonical_json(record["reviews"]),
        "ruling": canonical_json(record["ruling"]),
        "reason": candidate.reason,
        "std": candidate.std,
    }


def preference_rows(candidate: Candidate) -> list[dict[str, Any]]:
    """Pair the accepted response with each alternative of the same prompt whose deciding score was lower."""
    row = training_row(candidate)
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": [{"role": "assistant", "content": other.response}],
            "id": candidate.id,
            "domain": candidate.domain,
            "score_chosen": candidate.verdict_score,
            "score_rejected": other.verdict_score,
            "reason": other.reason,
        }
        for other in worse_responses(candidate)
    ]


def worse_responses(candidate: Candidate) -> list[AlternativeResponse]:
    """Return the alternatives of an accepted candidate that lost: by comparison where there was one, else by score.

    A person's edit has none: scores and alternatives are those of the texts before it.
    """
    chosen = candidate.verdict_score
    edited = any(decision.verdict is HumanVerdict.EDIT for decision in candidate.decisions[-1:])
    if candidate.state is not State.ACCEPTED or chosen is None or edited:
        return []
    return [other for other in candidate.alternatives if other.is_worse_than(chosen)]


def may_be_unreviewed(candidate: Candidate) -> bool:
    """Return whether a candidate can be drawn as an unreviewed row."""
    left_out = {RejectedAt.SAME_TEXT, RejectedAt.CONTAMINATION, RejectedAt.SPECIAL_TOKEN}
    return bool(candidate.response) and candidate.state is not State.FAILED and candidate.rejected_at not in left_out


def _first_written(candidate: Candidate, repair: Repair) -> Candidate:
    """Return a candidate with its first response: reviewers chose among several, or had it revised.

    A form that a program can repair is repaired here too, so that reviewed rows differ by their reviews alone.
    """
    first = next((other.response for other in candidate.alternatives if other.number == 0 and other.response), None)
    text = candidate.response if first is None else first
    repaired = repair(candidate.instruction, text) or text
    return candidate if repaired == candidate.response else replace(candidate, response=repaired, thinking="")


def draw_unreviewed(candidates: Iterable[Candidate], count: int, seed: int) -> list[str]:
    """Draw candidates with a response at random, without regard to reviewers and gate, and return their ids in order.

    What a model or a server failed to write, copies, and candidates that repeat test items are left out.

    Args:
        candidates: all candidates of the run.
        count: how many to draw; all there are, where there are fewer.
        seed: the recipe's.
    """
    pool = [candidate.id for candidate in candidates if may_be_unreviewed(candidate)]
    chosen = set(rng(seed, "unreviewed").sample(pool, min(count, len(pool))))
    return [name for name in pool if name in chosen]


def round_rows(candidates: Sequence[Candidate]) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of each round, for `dataset/rounds/N.parquet`; empty when there was only one."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for candidate in candidates:
        if candidate.state is State.ACCEPTED:
            rounds.setdefault(candidate.round, []).append(writable(training_row(candidate)))
    return rounds if len(rounds) > 1 else {}


def lineage_row(candidate: Candidate) -> dict[str, Any]:
    """Return all that is recorded of a candidate as one row."""
    record = candidate.to_json()
    usage = candidate.usage.values()
    return (
        {"candidate_id": candidate.id, "round": candidate.round, "index": candidate.index}
        | {name: str(record[name] or "") for name in _TEXTS[1:]}
        | {name: list(record[name]) for name in _LISTS}
        | {name: record[name] for name in ("mean", "std", "similarity", "disputed")}
        | {name: canonical_json(record[name]) for name in JSON_COLUMNS}
        | {
            "prompt_tokens": sum(u.prompt_tokens for u in usage),
            "completion_tokens": sum(u.completion_tokens for u in usage),
        }
    )


def rows_of(candidate: Candidate) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a candidate in each file of a dataset; nothing else decides their rows."""
    rows = {
        "train": [training_row(candidate)] if candidate.state is State.ACCEPTED else [],
        "contested": [contested_row(candidate)] if candidate.disputed else [],
        "preferences": preference_rows(candidate),
        "lineage": [lineage_row(candidate)],
    }
    return {name: [writable(row) for row in found] for name, found in rows.items()}


def writable(value: Any) -> Any:
    """Return a value with texts that can be encoded."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [writable(part) for part in value]
    if isinstance(value, dict):
        return {key: writable(part) for key, part in value.items()}
    return value


def dataset_rows(candidates: Sequence[Candidate]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every file of a dataset."""
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for candidate in candidates:
        for name, rows in rows_of(candidate).items():
            parts[name] += rows
    return parts


class _Content:
    """Add up the facts that the card states of the rows, while they are written."""

    def __init__(self) -> None:
        self.parts = dict.fromkeys(SCHEMAS, 0)
        self.domains: Counter[str] = Counter()
        self.rounds: Counter[int] = Counter()
        self.second_best = 0
        self.repaired = 0
        self.margins = array("d")

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        self.parts[name] += 1
        if name == "train":
            self.domains[row["domain"]] += 1
            self.rounds[row["round"]] += 1
        elif name == "preferences":
            self.margins.append(row["score_chosen"] - row["score_rejected"])

    def facts(self) -> dict[str, Any]:
        return {
            "rows": self.parts["train"],
            "parts": self.parts,
            "domains": self.domains,
            "rounds": sorted(self.rounds) if len(self.rounds) > 1 else [],
            "pairs": self.parts["preferences"],
            "second_best": self.second_best,
            "repaired": self.repaired,
            "margin": median(self.margins) if self.margins else 0.0,
        }


def export(folder: Path, candidates: Iterable[Candidate], facts: Mapping[str, Any]) -> list[Path]:
    """Write `dataset/` and `lineage.parquet` into a run folder and return the files.

    Candidates are read once, and only a few thousand rows are in memory at a time.
    """
    dataset, content = folder / "dataset", _Content()
    files = {name: dataset / f"{name}.parquet" for name in SCHEMAS}
    with ExitStack() as stack:
        parts = {name: stack.enter_context(_parquet(files[name], schema)) for name, schema in SCHEMAS.items()}
        for candidate in candidates:
            content.second_best += sum(r.rejected_at is RejectedAt.BEST_OF_N for r in worse_responses(candidate))
            written = rows_of(candidate)
            content.repaired += "\ufffd" in str(written["lineage"]) and lineage_row(candidate) != written["lineage"][0]
            for name, rows in written.items():
                for row in rows:
                    parts[name](row)
                    content.add(name, row)
    made = [*files.values(), *_rounds(dataset, content.facts()["rounds"])]
    made += [_twin(files["lineage"], folder / "lineage.parquet"), dataset / "README.md"]
    with atomic_path(dataset / "README.md") as temporary:
        temporary.write_text(well_formed(card(content.facts() | dict(facts))), encoding="utf-8")
    return made


def export_unreviewed(
    folder: Path, candidates: Iterable[Candidate], count: int, seed: int, repair: Repair = lambda _, __: None
) -> tuple[Path, int]:
    """Write `dataset/unreviewed.parquet`: as many rows as were accepted, drawn from the candidates at random.

    A student that is trained on it beside the accepted rows shows what review bought. It costs no further call.

    Args:
        folder: the run folder.
        candidates: all candidates; they are read twice.
        count: the number of accepted rows.
        seed: the recipe's.
        repair: returns a response in the form that its instruction asks for, or None.

    Returns:
        The file and its rows.
    """
    drawn = set(draw_unreviewed(candidates, count, seed))
    path = folder / "dataset" / "unreviewed.parquet"
    with _parquet(path, TRAIN_SCHEMA) as add:
        for candidate in candidates:
            if candidate.id in drawn:
                add(writable(training_row(_first_written(candidate, repair))))
    return path, len(drawn)


def _rounds(dataset: Path, numbers: Sequence[int]) -> list[Path]:
    """Write the rows of each round into a file of its own, read from the file of all; none for a single round."""
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
    """Link a file into another folder, or copy it where the file system has no links."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return target


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a file that takes rows one by one and writes them in groups."""
    waiting: list[Mapping[str, Any]] = []

    def write() -> None:
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
        waiting.clear()

    def add(row: Mapping[str, Any]) -> None:
        waiting.append(row)
        if len(waiting) == GROUP:
            write()

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield add
        write()


def card(facts: Mapping[str, Any]) -> str:
    """Render the dataset card: what the rows are, which models wrote them, their licenses, and known limits."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["verifier_mode"] = verifier_mode
    return environment.get_template("card.jinja").render(facts)
