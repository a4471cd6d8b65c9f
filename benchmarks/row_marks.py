"""Compare arms by blind marks of their rows: is the request sensible, and is the answer right?

Run as: python benchmarks/row_marks.py [FOLDER ...] [--json FILE]

FOLDER holds one Parquet file an arm and `marks.jsonl`: a line for each different row, with its key (eight digits of the
digest of request and answer) and one or more marks. Each mark says whether the request is
good and the answer right. A reader who does not know the arm gives it. `--sheet FILE` writes the rows to mark, in
random order. Prints the share of each arm with Wilson intervals. Differences of arms have bootstrap intervals over
rows; a row that two arms share counts for both. Several folders count as one: their arms of the same name are joined.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from gra.core.files import write_json, write_text
from gra.core.hashing import digest
from gra.stats.paired import wilson

STUDY = Path(__file__).parents[1] / "examples" / "datasets" / "study"
COMPARED = (
    ("gra", "unreviewed"),
    ("gra-small", "unreviewed-small"),
    ("gra", "single"),
    ("gra", "distilled"),
    ("gra-small", "distilled"),
)
Marks = Mapping[str, Sequence[Mapping[str, bool]]]


def key_of(row: Mapping[str, Any]) -> str:
    """Return the key of a row's texts."""
    return digest([row["prompt"][-1]["content"], row["completion"][-1]["content"]])[:8]


def write_sheet(arms: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> int:
    """Write the different rows of all arms in random order, without their arms."""
    rows = list({key_of(row): row for each in arms.values() for row in each}.items())
    random.Random(1).shuffle(rows)
    texts = ((key, row["prompt"][-1]["content"], row["completion"][-1]["content"]) for key, row in rows)
    write_text(file, "\n".join(f"## {key}\n\n**REQUEST**\n\n{q}\n\n**ANSWER**\n\n{a}\n" for key, q, a in texts))
    return len(rows)


def compare(
    ours: Sequence[str], others: Sequence[str], score: Callable[[str], float], draws: int = 10_000
) -> tuple[float, float, float]:
    """Return the difference of two arms' shares with a 95 % bootstrap interval over their rows."""
    luck, rows = random.Random(0), sorted({*ours, *others})
    mine, theirs = set(ours), set(others)
    found = []
    for _ in range(draws):
        drawn = luck.choices(rows, k=len(rows))
        a, b = ([score(key) for key in drawn if key in arm] for arm in (mine, theirs))
        if a and b:
            found.append(fmean(a) - fmean(b))
    found.sort()
    low, high = found[int(0.025 * len(found))], found[int(0.975 * len(found))]
    return fmean(map(score, ours)) - fmean(map(score, others)), low, high


def main(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER ...")] = None,
    sheet: Annotated[Path | None, typer.Option(help="write the rows to mark, and stop")] = None,
    out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the tables."""
    folders = folders or [STUDY]
    arms: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((file for folder in folders for file in folder.glob("*.parquet")), key=lambda file: file.stem):
        arms.setdefault(file.stem, []).extend(pq.read_table(file).to_pylist())
    if sheet is not None:
        print(f"{write_sheet(arms, sheet)} rows")
        return
    lines = [line for f in folders for line in (f / "marks.jsonl").read_text(encoding="utf-8").splitlines()]
    marks: Marks = {entry["key"]: entry["marks"] for entry in map(json.loads, lines)}
    keys = {arm: [key_of(row) for row in rows] for arm, rows in arms.items()}
    keys = {arm: each for arm, each in keys.items() if all(key in marks for key in each)}

    def share(name: str) -> Callable[[str], float]:
        return lambda key: fmean(float(mark[name]) for mark in marks[key])

    pairs = [entry for entry in marks.values() if len(entry) > 1]
    agreed = {name: fmean(float(len({m[name] for m in entry}) == 1) for entry in pairs) for name in ("good", "right")}
    print("| arm | rows | request good | answer right |\n|---|---|---|---|")
    found: dict[str, Any] = {"agreement": agreed, "arms": {}, "differences": []}
    for arm, each in keys.items():
        shares = {name: fmean(map(share(name), each)) for name in ("good", "right")}
        intervals = {name: wilson(value, len(each)) for name, value in shares.items()}
        found["arms"][arm] = {"rows": len(each)} | {n: [shares[n], *intervals[n]] for n in shares}
        shown = [
            f"{100 * v:.0f} % [{100 * intervals[n][0]:.0f}, {100 * intervals[n][1]:.0f}]" for n, v in shares.items()
        ]
        print(f"| `{arm}` | {len(each)} | {' | '.join(shown)} |")
    print("\n| difference of right answers | points |\n|---|---|")
    for ours, others in COMPARED:
        if ours in keys and others in keys:
            value, low, high = compare(keys[ours], keys[others], share("right"))
            found["differences"].append({"ours": ours, "reference": others, "value": value, "low": low, "high": high})
            print(f"| {ours} - {others} | {100 * value:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}] |")
    print(f"\ntwo marks agree: request {agreed['good']:.0%}, answer {agreed['right']:.0%} of {len(pairs)} rows")
    if out is not None:
        write_json(out, found)


if __name__ == "__main__":
    typer.run(main)
