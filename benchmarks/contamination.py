"""How fast a dataset is checked against benchmarks, and how much of what was planted in it is found.

Run as: python benchmarks/contamination.py DATA [--rows 50000] [--planted 200] [--embedder catalog:all-minilm-l6-v2]

DATA holds bench/*.jsonl(.gz) (the suites) and seeds/gsm8k_train.jsonl.gz, seeds/self_instruct_seed_tasks.jsonl (what
rows are made of). Rows are 3.8 KB on average, as in the data that the paper's authors released, from shuffled sentences
of texts that are in no benchmark. Items are planted whole, as bare questions, and changed in several ways; the only
human rewording is MBPP's own: the sanitized prompt of a task against its original. With an embedder, recall and false
matches are those among 1,500 items drawn, MBPP's (reworded by people) and GSM8K's (whose training split is looked at),
and cosines other than the default are tried too.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.data.contamination import SuiteIndex, SuiteItem, verdict_of
from gra.data.contamination.texts import read_dataset, read_items

SUITES = (
    "gsm8k_test",
    "humaneval",
    "mbpp_test500",
    "hellaswag_val",
    "arc_challenge_test",
    "bbh",
    "mmlu_test",
    "ifeval",
)
BYTES = 3800
CHUNK = 512
WHOLE = ("mbpp_test500", "gsm8k_test")  # with embeddings, all their items
ALONE = 300  # rows looked at one by one, as a synthesis does
COSINES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
OTHERS = ("something", "quickly", "another", "maybe", "large", "together", "before", "simple", "often", "different")
Change = Callable[[SuiteItem, random.Random], str | None]


def lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as handle:
        yield from map(json.loads, handle)


def suites(data: Path) -> list[SuiteItem]:
    files = [next((data / "bench").glob(f"{name}.jsonl*")) for name in SUITES]
    return [item for file in files for item in read_items(file)]


def filler(data: Path) -> list[str]:
    """Sentences that no benchmark has (as far as their makers say: GSM8K's training split, Self-Instruct's seeds)."""
    texts = [f"{row['question']} {row['answer']}" for row in lines(data / "seeds" / "gsm8k_train.jsonl.gz")]
    for row in lines(data / "seeds" / "self_instruct_seed_tasks.jsonl"):
        texts += [row["instruction"], *(instance["output"] for instance in row["instances"])]
    return [s for text in texts for s in re.split(r"(?<=[.?!])\s+|\n+", text) if len(s) > 20]


def row(sentences: Sequence[str], draw: random.Random, control_items: str | None) -> list[str]:
    """An instruction and a long response; what is planted replaces the instruction."""
    instruction = " ".join(draw.choices(sentences, k=3))
    response, size = [], 0
    while size < BYTES - len(instruction):
        response.append(draw.choice(sentences))
        size += len(response[-1]) + 1
    return [instruction if control_items is None else control_items, " ".join(response)]


def whole(item: SuiteItem, draw: random.Random) -> str:
    return "\n".join(
        [item.text, *(f"{letter}) {choice}" for letter, choice in zip("ABCDEFGHIJ", item.choices, strict=False))]
    )


def question(item: SuiteItem, draw: random.Random) -> str | None:
    return item.text if len(item.text.split()) >= 8 else None


def reformatted(item: SuiteItem, draw: random.Random) -> str | None:
    text = re.sub(r"[^\w\s]", " ", item.text.upper())
    return "**Task**\n\n" + re.sub(r"\s+", "\n", text) if len(item.text.split()) >= 8 else None


def inside(item: SuiteItem, draw: random.Random) -> str | None:
    return f"Please solve this for my class. {item.text} Show every step." if len(item.text.split()) >= 8 else None


def renumbered(item: SuiteItem, draw: random.Random) -> str | None:
    if len(re.findall(r"\d+", item.text)) < 2 or len(item.text.split()) < 15:
        return None
    return re.sub(r"\d+", lambda found: str(int(found[0][:9]) + draw.randint(1, 9)), item.text)


def replaced(share: float) -> Change:
    def change(item: SuiteItem, draw: random.Random) -> str | None:
        parts = item.text.split(" ")
        if len(parts) < 15:
            return None
        return " ".join(draw.choice(OTHERS) if draw.random() < share else word for word in parts)

    return change


def shuffled(item: SuiteItem, draw: random.Random) -> str | None:
    sentences = re.split(r"(?<=[.?!])\s+", item.text.strip())
    if len(sentences) < 3:
        return None
    draw.shuffle(sentences)
    return " ".join(sentences)


CHANGES: dict[str, Change] = {
    "whole item": whole,
    "question alone": question,
    "reformatted, upper case": reformatted,
    "inside a longer request": inside,
    "sentences shuffled": shuffled,
    "numbers changed": renumbered,
    "1 word in 10 replaced": replaced(0.1),
    "1 word in 5 replaced": replaced(0.2),
    "1 word in 3 replaced": replaced(1 / 3),
}


def reworded(data: Path, items: Sequence[SuiteItem]) -> list[tuple[int, str]]:
    """MBPP's sanitized prompts that are not the original ones."""
    places = {item.id: place for place, item in enumerate(items) if item.task == "mbpp_test500"}
    pairs = [(places.get(str(r["task_id"])), r["prompt"]) for r in lines(data / "bench" / "mbpp_sanitized.jsonl")]
    squeezed = {place: re.sub(r"\W+", " ", items[place].text.lower()).strip() for place in places.values()}
    return [
        (p, text) for p, text in pairs if p is not None and re.sub(r"\W+", " ", text.lower()).strip() != squeezed[p]
    ]


def recall(index: SuiteIndex, control_items: Sequence[tuple[int, str]], embed: Any) -> dict[str, Any]:
    """Of these texts, how many name their own item: as contaminated, at least as suspect, and by meaning alone."""
    texts = [[text] for _, text in control_items]
    embeddings = embed([text for _, text in control_items]) if embed else None
    sure = suspected = meant = 0
    for (place, _), matches in zip(control_items, index.check(texts, embeddings), strict=True):
        # BBH and MMLU repeat some questions: the same words under another id are the same item.
        own = [m for m in matches if m.item == place or index.items[m.item].text == index.items[place].text]
        sure += verdict_of(own) == "contaminated"
        suspected += bool(own)
        meant += bool(own) and all(m.method == "embedding" for m in own)
    return {"planted": len(control_items), "contaminated": sure, "found": suspected, "by_meaning_alone": meant}


def by_cosine(
    vectors: Any, items: Sequence[SuiteItem], reworded: Sequence[tuple[int, str]], rows: Any, embed: Any
) -> Any:
    """At several thresholds: how many rewordings have their own item as nearest, and how many rows have any so near."""
    close = embed([text for _, text in reworded]) @ vectors.T
    nearest = close.argmax(axis=1).tolist()
    own = [items[p].text == items[n].text for (p, _), n in zip(reworded, nearest, strict=True)]
    others = {name: (found @ vectors.T).max(axis=1) for name, found in rows.items()}
    return {
        cosine: {"reworded": int((close.max(axis=1)[own] >= cosine).sum())}
        | {name: int((found >= cosine).sum()) for name, found in others.items()}
        for cosine in COSINES
    }


def speed(index: SuiteIndex, data: Path, rows: int, draw: random.Random) -> dict[str, Any]:
    """The time that made-up rows take, in chunks and one by one, and what is found of the items planted among them."""
    items, sentences = index.items, filler(data)
    every = max(1, rows // 1000)
    places = draw.sample(range(len(items)), min(len(items), -(-rows // every)))
    seen = Counter[str]()
    spent = 0.0
    for start in range(0, rows, CHUNK):
        numbers = range(start, min(rows, start + CHUNK))
        chosen = [places[n // every] if n % every == 0 else None for n in numbers]
        batch = [row(sentences, draw, None if p is None else whole(items[p], draw)) for p in chosen]
        seen["size"] += sum(len(text) for texts in batch for text in texts)
        clock = time.monotonic()
        checked = index.check(batch)
        spent += time.monotonic() - clock
        for place, matches in zip(chosen, checked, strict=True):
            if place is None:
                seen[verdict_of(matches)] += 1
            else:
                seen["planted"] += 1
                same = {m.item for m in matches if m.verdict == "contaminated"}
                seen["found"] += any(i == place or items[i].text == items[place].text for i in same)
    single = [row(sentences, draw, None) for _ in range(ALONE)]
    clock = time.monotonic()
    for one in single:
        index.check([one])
    return {
        "rows": rows, "characters": seen["size"] / rows, "seconds": spent, "planted": seen["planted"],
        "found": seen["found"], "alarms": seen["contaminated"], "suspects": seen["suspect"],
        "alone_ms": 1000 * (time.monotonic() - clock) / ALONE,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def real(index: SuiteIndex, texts: Sequence[Sequence[str]], embeddings: Any) -> dict[str, Any]:
    """What is called contaminated or suspect of rows that people wrote."""
    checked = index.check(texts, embeddings)
    counts = Counter(map(verdict_of, checked))
    for matches, row_texts in zip(checked, texts, strict=True):
        if verdict_of(matches) == "contaminated" and counts["contaminated"] < 40:
            top = matches[0]
            print(f"    {top.method} {top.score:.2f} {index.items[top.item].text[:90]!r} / {row_texts[0][:90]!r}")
    meant = sum(bool(m) and all(one.method == "embedding" for one in m) for m in checked)
    return {
        "rows": len(texts),
        **{word: counts[word] for word in ("contaminated", "suspect")},
        "by_meaning_alone": meant,
    }


def main(
    data: Path,
    rows: int = 50_000,
    control_items: Annotated[int, typer.Option(help="items planted for each kind of change")] = 200,
    embedder: Annotated[str | None, typer.Option(help="measure recall with embeddings too")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="figures as JSON")] = None,
) -> None:
    begun = time.monotonic()
    items = suites(data)
    index = SuiteIndex(items)
    built = time.monotonic() - begun
    print(f"{len(items):,} items of {len(SUITES)} suites indexed in {built:.1f} s")
    draw = random.Random(0)
    figures: dict[str, Any] = {"items": len(items), "index_seconds": built, **speed(index, data, rows, draw)}
    print(
        "{rows:,} rows of {characters:,.0f} characters in {seconds:.1f} s, one process, peak {peak_gb:.2f} GB\n"
        "  planted whole: {found} of {planted} found; other rows: {alarms} called contaminated, {suspects} suspect\n"
        "  a row by itself: {alone_ms:.1f} ms".format(**figures)
    )
    embed, vectors, vectors_of = None, None, {}
    if embedder is not None:
        from gra.data.embedder import Embedder
        from gra.models.catalog import resolve

        embed = Embedder(resolve(embedder).path).encode
        sample = draw.sample(range(len(items)), min(len(items), 1500))
        sample = sorted({*sample, *(p for p, item in enumerate(items) if item.task in WHOLE)})
        items = [items[p] for p in sample]
        vectors = embed([item.text for item in items])
        index = SuiteIndex(items, vectors)
        print(f"recall below: among {len(items):,} of the items, with embeddings")
    planted_texts: dict[str, list[tuple[int, str]]] = {}
    for name, change in CHANGES.items():
        order = draw.sample(range(len(items)), len(items))
        planted_texts[name] = [(p, text) for p in order if (text := change(items[p], draw)) is not None][:control_items]
    by_people = planted_texts["reworded by people (MBPP)"] = reworded(data, items)
    figures |= {"recall": {}, "real": {}}
    for name, texts in planted_texts.items():
        figures["recall"][name] = recall(index, texts, embed)
        print(f"  {name}: {figures['recall'][name]}")
    for name in ("gsm8k_train.jsonl.gz", "self_instruct_seed_tasks.jsonl"):
        found = [row_texts for _, row_texts in read_dataset(data / "seeds" / name)]
        if embed is not None:
            found = draw.sample(found, min(len(found), 1000))
            vectors_of[name] = embed([row_texts[0] for row_texts in found])
        figures["real"][name] = real(index, found, vectors_of.get(name))
        print(f"  real rows of {name}: {figures['real'][name]}")
    if embed is not None:
        figures["by_cosine"] = by_cosine(vectors, items, by_people, vectors_of, embed)
        print(f"  the nearest by meaning, of {len(by_people)} rewordings and of the rows above:")
        for cosine, found_at in figures["by_cosine"].items():
            print(f"    cosine {cosine}: {found_at}")
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
