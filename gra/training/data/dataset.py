"""Read training rows strictly, mix them by weight and split them by prompt.

The same seed gives the same rows on every rank.

A row is conversational prompt-completion: `prompt` is a list of messages and `completion` is the
assistant's one message. A pair has `chosen` and `rejected` instead. Files are Parquet or JSONL; other
columns are ignored.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.files import open_regular, refuse_irregular
from gra.core.hashing import canonical_json
from gra.core.text.lines import LONGEST_LINE, bounded_lines

Message = dict[str, str]
_ROLES = ("system", "user", "assistant")
_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """A prompt, its answer, and the file and row they came from."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    origin: str

    def alternatives(self) -> list[Row]:
        """Return the row once for each of its answers."""
        return [self]


@dataclass(frozen=True)
class Pair(Row):
    """A prompt with the chosen answer (`completion`) and the rejected answer."""

    rejected: tuple[Message, ...]

    def alternatives(self) -> list[Row]:
        """Return the prompt with the chosen answer and with the rejected one."""
        sides = (("chosen", self.completion), ("rejected", self.rejected))
        return [Row(self.prompt, answer, f"{self.origin} ({side})") for side, answer in sides]


@dataclass(frozen=True)
class Split:
    """Rows for training, repeats included, held-out rows, and the number of rows read."""

    train: list[Row]
    heldout: list[Row]
    read: int


def read_rows(path: Path) -> list[Row]:
    """Return every row of a Parquet or JSONL file.

    Raises:
        DataError: Naming the file and each bad row's number, or saying that the file is empty.
    """
    return [
        Row(_messages(value["prompt"]), _messages(value["completion"]), f"{path} row {number}")
        for number, value in _checked(path, ("completion",))
    ]


def read_pairs(path: Path) -> list[Row]:
    """Return every pair of a Parquet or JSONL file of preferences.

    Raises:
        DataError: Naming the file and each bad row's number, or saying that the file is empty.
    """
    pairs: list[Row] = []
    for number, value in _checked(path, ("chosen", "rejected")):
        prompt, chosen, rejected = (_messages(value[key]) for key in ("prompt", "chosen", "rejected"))
        pairs.append(Pair(prompt, chosen, f"{path} row {number}", rejected))
    return pairs


def _checked(path: Path, answers: Sequence[str]) -> list[tuple[int, Any]]:
    """Return the rows of a file with their numbers.

    Raises:
        DataError: When a row is wrong.
    """
    rows, bad = [], []
    for number, value in _values(path, ["prompt", *answers]):
        problem = _problem(value, answers)
        if problem:
            bad.append(f"row {number}: {problem}")
        rows.append((number, value))
    if bad:
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(f"{path}: {len(bad)} bad rows\n  " + "\n  ".join(bad[:_SHOWN]) + more)
    if not rows:
        raise DataError(f"{path} has no rows; there is nothing to train on")
    return rows


def split_rows(sources: Sequence[tuple[Sequence[Row], float]], fraction: float, seed: int) -> Split:
    """Hold out a share of the prompts, then repeat or thin each source by its weight.

    Args:
        sources: The rows of each file with its weight. Weight 1 keeps every row once. Weight 2.5 keeps every row
            twice, and a random half of the rows a third time.
        fraction: Share of the distinct prompts to hold out; at least one when above 0.
        seed: Of the random draws. A held-out prompt is in no source's training rows.

    Raises:
        DataError: When nothing is left to train on.
    """
    everything = [row for rows, _ in sources for row in rows]
    prompts = sorted({_draw(seed, row) for row in everything})
    count = max(1, round(fraction * len(prompts))) if fraction else 0
    held = set(prompts[:count])
    train: list[Row] = []
    for index, (rows, weight) in enumerate(sources):
        kept = [row for row in rows if _draw(seed, row) not in held]
        train += kept * int(weight)
        part = round((weight - int(weight)) * len(kept))
        train += random.Random(f"{seed}/{index}").sample(kept, part)
    if not train:
        raise DataError(
            f"no training rows are left of {len(everything)} (weights {[weight for _, weight in sources]}, "
            f"holdout fraction {fraction}); lower `data.holdout.fraction` or raise a weight"
        )
    return Split(train, [row for row in everything if _draw(seed, row) in held], len(everything))


def _draw(seed: int, row: Row) -> str:
    """Return a row's place in the seeded order of prompts; it does not depend on the order of files."""
    return hashlib.sha256(f"{seed}\n{canonical_json(row.prompt)}".encode()).hexdigest()


def _values(path: Path, columns: list[str]) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet(path, columns)
    elif path.suffix == ".jsonl":
        yield from _jsonl(path)
    else:
        raise DataError(f"{path} is neither .parquet nor .jsonl; training reads these two")


def _parquet(path: Path, columns: list[str]) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_irregular(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from None
    missing = set(columns) - set(file.schema_arrow.names)
    if missing:
        raise DataError(
            f"{path} has no column `{'` and `'.join(sorted(missing))}` (it has {', '.join(file.schema_arrow.names)}); "
            f"this training needs `{'` and `'.join(columns)}`, each a list of messages"
        )
    number = 0
    try:
        for batch in file.iter_batches(columns=columns):
            for value in _values_of(path, batch):
                number += 1
                yield number, value
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from None


def _values_of(path: Path, batch: Any) -> list[Any]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:  # not UTF-8, or a time that no calendar has
        raise DataError(f"{path} has a column that cannot be read ({error}); write it again") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with open_regular(path) as stream:
        for number, line in bounded_lines(stream):
            if line is None:
                yield number, ValueError(f"the line is longer than {LONGEST_LINE >> 20} MiB")
            elif line.strip():
                yield number, _parsed(line, "utf-8-sig" if number == 1 else "utf-8")


def _parsed(line: bytes, encoding: str) -> Any:
    """Return the value of a line of JSON, or the ValueError that says what is wrong with it."""
    try:
        return json.loads(line.decode(encoding))
    except UnicodeDecodeError:
        return ValueError("not UTF-8 text")
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deeply")


def _problem(value: Any, answers: Sequence[str]) -> str | None:
    """Return what is wrong with a row, or None."""
    if isinstance(value, ValueError):
        return f"not valid JSON ({value})"
    if not isinstance(value, dict):
        return f"not an object with `prompt` and `{'` and `'.join(answers)}`"
    for key in ("prompt", *answers):
        messages = value.get(key)
        if not isinstance(messages, list) or not messages:
            return f"`{key}` must be a list of messages ({{role, content}})"
        for message in messages:
            problem = _message_problem(message)
            if problem:
                return f"`{key}` {problem}"
    if value["prompt"][-1]["role"] == "assistant":
        return "`prompt` ends with the assistant; its last message must be the user's"
    for key in answers:
        if [message["role"] for message in value[key]] != ["assistant"]:
            return f"`{key}` must be exactly one message of the assistant"
    if len(answers) == 2 and value[answers[0]][0]["content"] == value[answers[1]][0]["content"]:
        return "`chosen` and `rejected` are the same, so there is nothing to prefer"
    return None


def _message_problem(message: Any) -> str | None:
    if not isinstance(message, dict) or not {"role", "content"} <= set(message):
        return "has a message without `role` and `content`"
    if message["role"] not in _ROLES:
        return f"has a message with the role {message['role']!r}; roles are {', '.join(_ROLES)}"
    if not isinstance(message["content"], str) or not message["content"].strip():
        return f"has an empty message of the {message['role']}"
    try:
        message["content"].encode()
    except UnicodeEncodeError as error:
        half = message["content"][error.start].encode("unicode_escape").decode()
        return f"has half of a surrogate pair ({half}) in a message of the {message['role']}, which is no character"
    return None


def _messages(value: list[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple({"role": message["role"], "content": message["content"]} for message in value)
