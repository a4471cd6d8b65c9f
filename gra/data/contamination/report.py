"""Write the files of `gra contamination DATASET SUITE`: a verdict for each row and each item, and what they share.

- verdicts.parquet: one line a row of the dataset: row, id, verdict, matches (how many items), and the strongest match
  (task, item, method, score, longest, text, row_text)
- items.parquet: one line an item of the suite: task, item, verdict, rows (how many it was found in), and where
- contamination.json: counts by verdict and by task; contamination.md: the same, with matched texts

`gra compare --contamination` reads items.parquet for the score on the items that training did not see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gra.core.errors import DataError
from gra.core.files import atomic_path, refuse_special_files, write_json
from gra.core.hashing import digest, file_digest
from gra.core.run_folder import RunFolder
from gra.data.contamination.search import ContaminationVerdict, Match, SuiteIndex, verdict_of
from gra.data.contamination.texts import SuiteItem, read_dataset

VERDICTS, ITEMS, SUMMARY, PAGE = "verdicts.parquet", "items.parquet", "contamination.json", "contamination.md"
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
_ROWS = 512  # of the dataset, in memory at once
_EXAMPLES = 3  # matched texts shown for each task and verdict
_MATCH = [("task", pa.string()), ("item", pa.string()), ("method", pa.string()), ("score", pa.float64()),
          ("longest", pa.int32()), ("text", pa.string()), ("row_text", pa.string())]  # fmt: skip
_VERDICT_SCHEMA = pa.schema(
    [("row", pa.int64()), ("id", pa.string()), ("verdict", pa.string()), ("matches", pa.int32()), *_MATCH]
)
_ITEM_SCHEMA = pa.schema(
    [("task", pa.string()), ("item", pa.string()), ("verdict", pa.string()), ("rows", pa.int32()),
     ("row", pa.int64()), ("id", pa.string()), *_MATCH[2:]]
)  # fmt: skip


def check_dataset(
    dataset: Path,
    items: Sequence[SuiteItem],
    output: Path,
    *,
    embed: Embed | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Look for every item in every row, and write the four files; memory does not grow with the dataset.

    Args:
        dataset: a file or folder of rows.
        items: the items of the suite.
        output: the folder for the files.
        embed: texts to unit rows; with it, each row's first text is also compared in meaning.
        progress: called with the number of rows that are done.

    Returns:
        The content of contamination.json.

    Raises:
        DataError: when the dataset cannot be read, or has no rows.
    """
    folder = RunFolder(output).create()
    with folder.lock():
        return _check(dataset, items, folder, embed, progress)


def _check(
    dataset: Path,
    items: Sequence[SuiteItem],
    folder: RunFolder,
    embed: Embed | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    index = SuiteIndex(items, embed([item.text for item in items]) if embed else None)
    best: dict[int, tuple[int, str, Match]] = {}
    found_in: Counter[int] = Counter()
    verdicts: Counter[ContaminationVerdict] = Counter()
    by_task: dict[str, Counter[str]] = {item.task: Counter() for item in items}
    number = 0
    with atomic_path(folder / VERDICTS) as temporary, pq.ParquetWriter(temporary, _VERDICT_SCHEMA) as writer:
        rows = read_dataset(dataset)
        while part := list(islice(rows, _ROWS)):
            texts = [row_texts for _, row_texts in part]
            embeddings = embed([row_texts[0] for row_texts in texts]) if embed else None
            lines = []
            for (own, _), matches in zip(part, index.check(texts, embeddings), strict=True):
                verdict = verdict_of(matches)
                verdicts[verdict] += 1
                for task, word in {(index.items[match.item].task, match.verdict) for match in matches}:
                    by_task[task][word] += 1
                for match in matches:
                    found_in[match.item] += 1
                    if match.item not in best or _rank(match) > _rank(best[match.item][2]):
                        best[match.item] = (number, own, match)
                lines.append({"row": number, "id": own, "verdict": verdict, "matches": len(matches),
                              **(_match(index, matches[0]) if matches else {})})  # fmt: skip
                number += 1
            writer.write_table(pa.Table.from_pylist(lines, schema=_VERDICT_SCHEMA))
            if progress is not None:
                progress(number)
        if not number:
            raise DataError(f"{dataset} has no rows")  # before what an earlier check wrote is replaced
    item_lines = [_item_line(index, place, best.get(place), found_in[place]) for place in range(len(items))]
    with atomic_path(folder / ITEMS) as temporary:
        pq.write_table(pa.Table.from_pylist(item_lines, schema=_ITEM_SCHEMA), temporary)
    summary = _summary(dataset, item_lines, number, verdicts, by_task, embed is not None)
    write_json(folder / SUMMARY, summary)
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text("\n".join(_page(summary, item_lines)), encoding="utf-8")
    files = [folder / name for name in (VERDICTS, ITEMS, SUMMARY, PAGE)]
    folder.record("contamination", {"fingerprint": digest([summary["dataset"], summary["suite"]])}, files)
    return summary


def read_items_found(folder: Path) -> dict[tuple[str, str], ContaminationVerdict]:
    """Return the verdict of every item, by (task, item id).

    Raises:
        DataError: when the folder holds no finished check.
        Mismatch: when its files were changed.
    """
    if not (folder / ITEMS).is_file():
        raise DataError(f"{folder} holds no contamination check (there is no {ITEMS}); give an output folder of "
                        "`gra contamination`")  # fmt: skip
    refuse_special_files(folder)
    RunFolder(folder).verify()
    rows = pq.read_table(folder / ITEMS, columns=["task", "item", "verdict"]).to_pylist()
    return {(row["task"], row["item"]): row["verdict"] for row in rows}


def _rank(match: Match) -> tuple[bool, float, int]:
    return match.verdict == "contaminated", match.score, match.longest


def _match(index: SuiteIndex, match: Match) -> dict[str, Any]:
    item = index.items[match.item]
    return {"task": item.task, "item": item.id, "method": match.method, "score": match.score,
            "longest": match.longest, "text": match.text, "row_text": match.row_text}  # fmt: skip


def _item_line(index: SuiteIndex, place: int, best: tuple[int, str, Match] | None, rows: int) -> dict[str, Any]:
    item = index.items[place]
    line: dict[str, Any] = {"task": item.task, "item": item.id, "verdict": "clean", "rows": rows}
    if best is None:
        return line
    row, own, match = best
    return {**_match(index, match), **line, "verdict": match.verdict, "row": row, "id": own}


def _summary(
    dataset: Path,
    items: Sequence[dict[str, Any]],
    rows: int,
    verdicts: Counter[ContaminationVerdict],
    by_task: dict[str, Counter[str]],
    embedded: bool,
) -> dict[str, Any]:
    file = dataset / "train.parquet" if dataset.is_dir() else dataset
    tasks = {}
    for task, counts in by_task.items():
        own = [item["verdict"] for item in items if item["task"] == task]
        tasks[task] = {
            "items": len(own),
            "contaminated": own.count("contaminated"),
            "suspect": own.count("suspect"),
            "rows_contaminated": counts["contaminated"],
            "rows_suspect": counts["suspect"],
        }
    return {
        "dataset": {"path": str(dataset), "sha256": file_digest(file), "rows": rows},
        "suite": {"items": len(items), "digest": digest([[item["task"], item["item"]] for item in items])},
        "methods": ["ngram", "minhash", *(["embedding"] if embedded else [])],
        "rows": {word: verdicts[word] for word in ("clean", "suspect", "contaminated")},
        "tasks": tasks,
    }


def _page(summary: dict[str, Any], items: Sequence[dict[str, Any]]) -> Iterator[str]:
    counts = summary["rows"]
    yield f"# Contamination of {summary['dataset']['path']}\n"
    yield f"{summary['dataset']['rows']:,} rows against {summary['suite']['items']:,} items by "
    yield f"{', '.join(summary['methods'])}:"
    yield f"{counts['contaminated']:,} rows contaminated, {counts['suspect']:,} suspect.\n"
    yield "| task | items | contaminated | suspect | rows contaminated | rows suspect |"
    yield "|---|---|---|---|---|---|"
    for task, found in summary["tasks"].items():
        yield f"| {task} | {' | '.join(f'{value:,}' for value in found.values())} |"
    for task in summary["tasks"]:
        for word in ("contaminated", "suspect"):
            shown = [item for item in items if item["task"] == task and item["verdict"] == word][:_EXAMPLES]
            if shown:
                yield f"\n## {task}: {word}\n"
            for item in shown:
                what = f"{item['method']} {item['score']:.2f}"
                what += f", {item['longest']} words in a row" if item["longest"] else ""
                yield f"- **{item['item']}** in row {item['id']} ({what})"
                yield f"  - item: {_line(item['text'])}"
                yield f"  - row: {_line(item['row_text'])}"
    yield ""


def _line(text: str) -> str:
    return f"`{' '.join(text.split())[:300].replace('`', chr(39))}`"
