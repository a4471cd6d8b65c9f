"""Seed files of every format with arbitrary content: rows or a GraError, never another exception."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gra.config.synthesis import SeedsConfig
from gra.core.errors import GraError
from gra.data.seeds.load import Seeds, load_seeds

DOMAINS = ["qa", "math"]
EXAMPLES = int(os.environ.get("GRA_FUZZ_EXAMPLES", "40"))
FORMATS = ["auto", "gra", "alpaca", "self_instruct", "sharegpt", "messages", "prompt_completion"]

texts = st.text(max_size=12) | st.sampled_from(["qa", "user", "human", "gpt", "assistant", "\ud83d", "\0", "r1-000001"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
turns = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), texts, max_size=4) | values, max_size=3
)
KEYS = ["id", "domain", "instruction", "input", "context", "output", "response", "instances", "keywords", "summary",
        "tests", "conversations", "messages", "prompt", "completion", "system", "history", ""]  # fmt: skip
rows = st.dictionaries(st.sampled_from(KEYS), values | turns | texts, max_size=6)
words = st.sampled_from(["Name a river.", "The Nile.", "a\u2028b", " x ", "é"])
said = st.fixed_dictionaries({"role": st.just("user"), "content": words, "from": st.just("human"), "value": words})
answered = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words, "from": st.just("gpt"), "value": words}
)
conversation = st.tuples(said, answered).map(list)
good = st.fixed_dictionaries(
    {"instruction": words, "response": words, "output": words, "instances": st.lists(
        st.fixed_dictionaries({"input": words, "output": words}), min_size=1, max_size=2
    )}
) | st.fixed_dictionaries({"messages": conversation, "conversations": conversation}) | st.fixed_dictionaries(
    {"prompt": words, "completion": words}
)  # fmt: skip
partial = st.builds(lambda row, more, lost: {k: v for k, v in {**row, **more}.items() if k not in lost},
                    good, rows, st.lists(st.sampled_from(["output", "response", "instances"]), max_size=3))  # fmt: skip
tables = st.lists(good | partial | rows | values, max_size=4)


def outcome(path: Path, form: str) -> Seeds | GraError:
    """Return the seeds of a file or the sentence that refuses it; anything else is raised."""
    source = SeedsConfig(source=str(path), format=form, max_bad=1.0, turns="first")  # type: ignore[arg-type]
    try:
        found = load_seeds(path, DOMAINS, source)
    except GraError as error:
        return error
    assert all(seed.instruction.strip() and seed.response.strip() for seed in found.rows)
    assert len({seed.id for seed in found.rows}) == len(found.rows)
    for seed in found.rows:
        f"{seed}".encode()
    return found


def mutated(data: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """Overwrite and insert bytes at places that are taken modulo the length."""
    for place, piece in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + len(piece) // 2 :]
    return data


def written(ending: str, table: list[Any]) -> bytes:
    """Return a table as a file of this format; rows that it cannot hold are left out."""
    dicts = [row for row in table if isinstance(row, dict)]
    if ending in (".jsonl", ".jsonl.gz"):
        lines = "".join(json.dumps(row) + "\n" for row in table).encode()
        return gzip.compress(lines) if ending.endswith("gz") else lines
    if ending == ".json":
        return json.dumps(table).encode()
    if ending == ".csv":
        out = io.StringIO()
        names = sorted({key for row in dicts for key in row}) or ["instruction"]
        writer = csv.DictWriter(out, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: str(value) for key, value in row.items()} for row in dicts)
        return out.getvalue().encode("utf-8", "surrogatepass")
    out_bytes = io.BytesIO()
    try:
        made = pa.Table.from_pylist(dicts)
        pq.write_table(made, out_bytes)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):  # no Parquet file has such a row
        pq.write_table(pa.table({"instruction": ["a"], "response": ["b"]}), out_bytes)
    return out_bytes.getvalue()


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_content_gives_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{os.getpid()}{ending}"
    content = data.draw(st.binary(max_size=200) | st.builds(written, st.just(ending), tables))
    changes = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6)), max_size=3)
    edits = data.draw(st.just([]) | changes)
    path.write_bytes(mutated(content, edits))
    outcome(path, data.draw(st.sampled_from(FORMATS)))


@pytest.mark.parametrize("depth", [10, 200, 500, 900, 990, 1_500, 100_000])
@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_any_depth_of_nesting_gives_rows_or_a_sentence(tmp_path: Path, ending: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    row = '{"instruction": "a", "response": "b", "domain": "qa", "extra": ' + nested + "}"
    path = tmp_path / f"deep{ending}"
    path.write_text(f"[{row}]" if ending == ".json" else row)
    found = outcome(path, "gra")
    assert isinstance(found, {10: Seeds, 100_000: GraError}.get(depth, (Seeds, GraError)))
