"""Seed files of every kind as files: the same rows from each, damage named with its place, and bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gra.config.synthesis import SeedsConfig
from gra.core.errors import DataError
from gra.core.text.lines import bounded_lines
from gra.data.seeds.load import Seeds, load_seeds

DOMAINS = ["qa", "math"]
GOOD = {"domain": "qa", "instruction": "Name a river.", "response": "The Nile."}
LINE = json.dumps(GOOD).encode() + b"\n"


def read(path: Path, **settings: Any) -> Seeds:
    return load_seeds(path, DOMAINS, SeedsConfig(source=str(path), **settings))


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    made = [
        {"id": f"s{i}", "domain": "qa", "instruction": f'Say "{i}",\nthen stop. \u2028', "response": f"0{i}"}
        for i in range(3)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in made)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(made))
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    kinds = sorted(tmp_path.iterdir())
    assert len(kinds) == 5
    for path in kinds:
        assert [(s.id, s.instruction, s.response) for s in read(path).rows] == [
            (row["id"], row["instruction"].strip(), row["response"]) for row in made
        ], path


def test_a_cell_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text("id,domain,instruction,response\n007,qa,1e3,true\n,math,NA,null\n")
    first, second = read(path).rows
    assert (first.id, first.instruction, first.response) == ("007", "1e3", "true")
    assert (second.id, second.instruction, second.response) == ("seed-000003", "NA", "null")


@pytest.mark.parametrize(
    ("line", "problem"),
    [("qa,a", "does not have 3 cells"), ("qa,a,b,c", "does not have 3 cells"), ('qa,"a"x,b', "not valid CSV")],
)
def test_a_bad_line_of_a_csv_file(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text(f'domain,instruction,response\nqa,"two\nlines",b\n{line}\nqa,c,d\n')
    found = read(path, max_bad=0.5)
    assert [seed.instruction for seed in found.rows] == ["two\nlines", "c"]
    (problem_shown,) = found.set_aside
    assert problem_shown.startswith(f"{path}:4: {problem}")


@pytest.mark.parametrize("closed", ["", 'qa,q90,a"90\n'])
def test_rows_behind_an_open_quotation_mark_are_not_lost_in_silence(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "seeds.csv"
    before, after = ("".join(f"qa,q{n},a\n" for n in range(start, start + 200)) for start in (0, 1000))
    path.write_text(f'domain,instruction,response\n{before}qa,q,"open\n{after}{closed}qa,last,a\n')
    with pytest.raises(DataError, match=r"(?s)20\d of 40\d seed rows.*:202: not .* the row from line 202 to 40"):
        read(path)
    found = read(path, max_bad=0.9)
    assert len(found.rows) + len(found.set_aside) == len(path.read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("seen", lambda: pa.array([2**61] * 2, pa.timestamp("us"))),
        ("response", lambda: pa.array([b"\xff", b"\xfe"]).view(pa.string())),
    ],
)
def test_unreadable_column_of_a_parquet_file_is_named(tmp_path: Path, column: str, cells: Any) -> None:
    path = tmp_path / "seeds.parquet"
    pq.write_table(pa.table({"instruction": ["a", "b"], "response": ["a", "b"], column: cells()}), path)
    with pytest.raises(DataError, match=rf"seeds\.parquet: the column `{column}` cannot be read"):
        read(path)


def test_a_parquet_file_with_two_columns_of_one_name(tmp_path: Path) -> None:
    path, column = tmp_path / "seeds.parquet", pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column] * 3, ["instruction", "response", "response"]), path)
    with pytest.raises(DataError, match="two columns have the same name"):
        read(path)


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.json", b'{"a": 1}', "is one list of objects"),
        ("a.json", b"[1,\n2", r"a\.json:2: not valid JSON"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.csv", b"a,a\n1,2\n", "two columns have the same name"),
        ("a.csv", b"a,b\n\xff,b\n", r"a\.csv:2: not UTF-8 text"),
        ("a.jsonl", b"{}\n{}\n\xff\n", r"a\.jsonl:3: not UTF-8 text; save the file as UTF-8"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINE * 3, mtime=0)[:-8] + b"\0" * 8, "cannot be read: CRC check failed"),
        ("a.jsonl.gz", gzip.compress(LINE * 9, mtime=0)[:-12], "cannot be read: Compressed file ended"),
        ("a.jsonl.gz", gzip.compress(b"{}\n\xff\n", mtime=0), r"a\.jsonl\.gz:2: not UTF-8 text"),
        ("a.json", b'[\n"\xff"]', r"a\.json:2: not UTF-8 text"),
        ("a.json", b"\xff\xfe[\0]\0", r"a\.json:1: not UTF-8 text"),
        ("a.parquet", b"", "cannot be read"),
        ("a.xlsx", b"", "its form is not known"),
    ],
)
def test_files_that_are_not_what_they_are_called(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=problem):
        read(tmp_path / name)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_line_without_end_is_set_aside_in_bounded_memory(tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    from gra.data.seeds import files

    monkeypatch.setattr(files, "bounded_lines", partial(bounded_lines, longest=1 << 20))
    path = tmp_path / f"seeds{ending}"
    with gzip.open(path, "wb") if ending.endswith("gz") else path.open("wb") as file:
        file.write(LINE + b'{"instruction": "')
        for _ in range(64):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n' + LINE)
    tracemalloc.start()
    found = read(path, max_bad=0.5)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.set_aside == [f"{path}:2: the line is longer than 64 MiB"]
    assert [seed.id for seed in found.rows] == ["seed-000001", "seed-000003"]
    assert most < 16 << 20


def test_line_without_end_in_a_csv_file_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    from gra.data.seeds import files

    monkeypatch.setattr(files, "bounded_lines", partial(bounded_lines, longest=1000))
    path = tmp_path / "seeds.csv"
    path.write_text("instruction,response\na,b\n" + "c" * 2000 + ",d\n")
    with pytest.raises(DataError, match=r"seeds\.csv:3: the line is longer than 64 MiB; split the file there"):
        read(path)


def test_file_that_unpacks_to_many_times_its_size_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    from gra.data.seeds import files

    monkeypatch.setattr(files, "_UNPACKED", 1 << 20)
    packed = tmp_path / "seeds.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\n" * (3 << 20)))
    table = tmp_path / "seeds.parquet"
    pq.write_table(pa.table({"instruction": ["a" * 20_000] * 5_000, "response": ["b"] * 5_000}), table)
    for path in (packed, table):
        with pytest.raises(DataError, match=r"unpacks to more than 200 times its size; unpack it yourself"):
            read(path)


def test_batches_of_a_parquet_file_with_large_values_are_small() -> None:
    from gra.data.seeds.files import _batch_rows

    def metadata(size: int) -> Any:
        column = SimpleNamespace(total_uncompressed_size=size)
        group = SimpleNamespace(num_columns=1, column=lambda number: column)
        return SimpleNamespace(num_row_groups=1, row_group=lambda number: group)

    assert [_batch_rows(metadata(size)) for size in (0, 1 << 20, 64 << 20, 4 << 30)] == [1024, 1024, 16, 1]


def test_device_is_no_seed_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.jsonl", "folder.csv"):
        with pytest.raises(DataError, match="it is a folder or a device"):
            read(tmp_path / name)


def test_a_row_of_a_parquet_file_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "seeds.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD, {**GOOD, "response": None}, GOOD]), path)
    assert read(path, max_bad=0.5).set_aside == [f"{path}, row 2: `response` is missing, empty or not text"]
