"""Measure the arm `annotate`: a committee against its best member and plain majority, with three kinds of examples.

Run as: python benchmarks/annotation.py --out FOLDER [--texts 36] [--store 20] [key=value ...]

Labels texts by recipes/systems/annotate.yaml once without examples, once with drawn and once with the nearest ones, on
shared engines. Texts are filled templates. Store, texts and a test set for a student
(`FOLDER/test.jsonl`) share no template and no name. Gold labels of the texts are
in no seed file: their response is `?`. Runs keep their ledgers, so a stopped benchmark goes on where it was.

Prints one table of entity F1 (exact place and type, micro). It has each member, the plain majority, the label model,
the measured votes, and the committee with its adjudicator. Gains are paired by text, with 95 % bootstrap intervals.
The best member is the one that is best on the texts themselves, which favors it. Writes FOLDER/annotation.json.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.progress import View
from gra.core.run_folder import RunFolder, environment
from gra.core.text.spans import AlignedSpans, LabelSpan, without_overlaps
from gra.core.types import Candidate
from gra.data.export import read_candidates
from gra.evaluation.suite import suite_items
from gra.stats.annotation import FittedVotes, f1_gain, micro_f1
from gra.synthesis.annotation.annotator import read_labels
from gra.synthesis.annotation.votes import AnnotatedText, count_votes, gold_facts
from gra.synthesis.run import make_job, run_jobs

ROOT = Path(__file__).parents[1]
WAYS = {
    "none": ["annotate.examples=0"],
    "random": ["annotate.choose=random"],
    "nearest": ["annotate.choose=nearest"],
}
# Three parts that share no template and no name.
TEMPLATES = {
    "store": """{person} works for {company} in {city}.
The {product} is made by {company}.
{person} met {person} at the airport of {city}.
{company} opened a second office in {city} this spring.
Nothing happened on the first day of the fair.
Customers returned the {product} because its screen broke.
"We had no choice," said {person}, who runs {company}.
In {city} the streets were empty after the match.
{company} bought {company} for an unknown sum.
{person} was born in {city} and never left it.
A truck of {company} lost its load near {city}.
The {product} costs twice as much as the {product}.
Most of the guests had gone home by midnight.
{person} ordered a {product} and got a refund.
The union asked {company} for better shifts.
Rain delayed the train from {city} to {city}.
With the {product}, {person} won the first prize.
Police in {city} are looking for {person}.
{company} presented the {product} to the press.
The recipe needs flour, butter and a little salt.
A nurse from {city} wrote to {person}.
Shares of {company} fell by four percent.
{person} painted the walls of the school in {city}.
Engineers of {company} repaired the {product} in a day.""",
    "texts": """Last autumn {company} asked {person} to lead its branch in {city}.
Has anyone tried the {product} on wet ground?
The lawyer {person} spoke for {company} before the judges.
Between {city} and {city} there is only one road.
My aunt swears by her {product}, though the handle is loose.
When {company} failed, {person} lost all savings.
The library closes early on days before a holiday.
{person}, {person} and {person} share a flat in {city}.
Tests showed that the {product} by {company} leaks.
According to {company}, no worker in {city} was hurt.
An old photograph shows {person} beside a {product}.
Tickets for the concert in {city} went to staff of {company}.""",
    "test": """{company} sued {person} over the name of the {product}.
Volunteers from {city} put trees along the river.
The {product} arrived broken, wrote {person} to {company}.
It takes two hours to boil the water for everyone.
{person} moved from {city} to {city} for a job at {company}.
Without {person} the {product} would not exist.
The warehouse of {company} in {city} burned down.
Only {person} knew how to start the {product}.""",
}
_FIRST = ("Mara Tobin Ilse Kofi Renata Yusuf Petra Anders", "Dario Nuala Hugo Amina Jonas Vera Samir Lotte",
          "Celia Bruno Hanna Idris Marta Felix Noor Oskar")  # fmt: skip
_LAST = ("Veldhuis Okoro Brandl Salas Imada", "Fenwick Duarte Kovacs Ateya Nyberg", "Haas Mensah Pirelli Onda Clarke")
_CITY = ("Tallinn Bologna Leuven Cork Malaga Gdansk", "Trieste Bremen Galway Poznan Nantes Turku",
         "Sligo Parma Kassel Namur Lodz Cadiz")  # fmt: skip
_FIRM = ("Arvo Beltane Corvid Dunmore Elster", "Fennel Garnet Hollis Ivory Juniper",
         "Karst Larch Mistral Nimbus Osprey")  # fmt: skip
_TRADE = ("Foods Motors Bank", "Textiles Systems Airways", "Chemicals Press Tools")
_THING = ("Turbo Echo Lumen", "Nova Pebble Swift", "Zephyr Coral Atlas")
_MODEL = ("Kettle Phone Drill", "Mixer Scooter Lamp", "Heater Camera Mower")


def make_texts(part: str, count: int) -> list[tuple[str, tuple[LabelSpan, ...]]]:
    """Fill the templates of a part in turn; each text comes with its gold labels."""
    place, luck = list(TEMPLATES).index(part), random.Random(part)
    names = {
        "person": [f"{a} {b}" for a in _FIRST[place].split() for b in _LAST[place].split()],
        "city": _CITY[place].split(),
        "company": [f"{a} {b}" for a in _FIRM[place].split() for b in _TRADE[place].split()],
        "product": [f"{a} {b} {n}" for a in _THING[place].split() for b in _MODEL[place].split() for n in (2, 5)],
    }
    templates, made = TEMPLATES[part].splitlines(), []
    for number in range(count):
        drawn = {kind: luck.sample(known, 3) for kind, known in names.items()}
        text, spans = "", []
        for piece in re.split(r"(\{\w+\})", templates[number % len(templates)]):
            if piece.startswith("{"):
                kind, name = piece[1:-1], drawn[piece[1:-1]].pop()
                spans.append(LabelSpan(len(text), len(text) + len(name), kind))
                text += name
            else:
                text += piece
        made.append((text, tuple(spans)))
    return made


def as_row(identity: str, text: str, spans: Sequence[LabelSpan] | None) -> dict[str, str]:
    """Return a row of a seed file; without spans its labels are not known."""
    entities = [{"text": text[span.start : span.end], "type": span.type} for span in spans or ()]
    response = "?" if spans is None else json.dumps({"entities": entities})
    return {"id": identity, "domain": "news", "instruction": text, "response": response}


def write_rows(file: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows of a seed file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(
    candidates: Sequence[Candidate],
    texts: Sequence[tuple[str, tuple[LabelSpan, ...]]],
    facts: dict[str, Any],
    recipe: SynthesisRecipe,
) -> dict[str, Any]:
    """Return the F1 of every labeling and the gains of the committee, over the texts that got labels."""
    config = recipe.annotate
    assert config is not None
    given = {c.parents[0]: c for c in candidates if c.reviews}
    members, annotated = list(facts["unusable"]), []
    for number, (text, spans) in enumerate(texts):
        name = f"text-{number:03}"
        said = {r.reviewer: r.comment for r in given[name].reviews} if name in given else {}
        found = {who: AlignedSpans(read_labels(text, labels, config), 0) for who, labels in said.items()}
        if name in given:
            annotated.append(AnnotatedText(name, text, {who: found.get(who) for who in members}, spans))
    committee = {text.id: read_labels(text.text, given[text.id].response, config) for text in annotated}
    known = gold_facts(annotated, committee, (), members, config)
    votes = FittedVotes(tuple(facts["votes"]["weights"][m] for m in members), facts["votes"]["intercept"])
    unsupervised = count_votes(config.model_copy(update={"votes": "label_model"}), members, (), annotated)
    labelings: dict[str, list[tuple[LabelSpan, ...]]] = {"label model": [], "measured votes": []}
    for text in annotated:
        spans = text.candidates()
        measured = dict(zip(spans, map(float, votes(text.votes(members))), strict=True)) if spans else {}
        for name, shares in (("label model", unsupervised.probabilities[text.id]), ("measured votes", measured)):
            labelings[name].append(without_overlaps([span for span, p in shares.items() if p > 0.5], shares))
    gold = [text.gold or () for text in annotated]
    more = {name: asdict(micro_f1(gold, found)) for name, found in labelings.items()}
    return {
        "texts": known["texts"],
        "members": members,
        "best_member": known["best_member"],
        "f1": {**known["members"], "majority": known["majority"], **more, "committee": known["committee"]},
        "gain_over_best_member": known["gain_over_best_member"],
        "gain_over_majority": known["gain_over_majority"],
        "labels": [[[s.start, s.end, s.type] for s in committee[text.id]] for text in annotated],
        "gold": [[[s.start, s.end, s.type] for s in spans] for spans in gold],
        "facts": facts,
    }


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """Print one line for each way to choose examples, and the nearest examples against the others."""
    members = next(iter(found.values()))["members"]
    shown = [*members, "majority", "label model", "measured votes", "committee"]
    print(f"| examples | texts | {' | '.join(shown)} | committee - best member | committee - majority | adjudicated |")
    print("|---|---|" + "---|" * (len(shown) + 3))
    for way, result in found.items():
        cells = [f"{result['f1'][name]['f1']:.3f}" for name in shown]
        gains = [_shown(result[key]) for key in ("gain_over_best_member", "gain_over_majority")]
        last = f"{gains[0]} ({result['best_member']}) | {gains[1]} | {result['facts']['adjudicated']}"
        print(f"| {way} | {result['texts']} | {' | '.join(cells)} | {last} |")
    for way in ("none", "random"):
        if "nearest" in found and way in found and found["nearest"]["gold"] == found[way]["gold"]:
            gold, nearest, other = ([{tuple(s) for s in text} for text in each] for each in (
                found["nearest"]["gold"], found["nearest"]["labels"], found[way]["labels"]
            ))  # fmt: skip
            print(f"committee, nearest - {way}: {_shown(asdict(f1_gain(gold, nearest, other)))}")


def _shown(gain: dict[str, float]) -> str:
    return f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def main(
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    out: Annotated[Path, typer.Option()] = Path("annotation"),
    texts: Annotated[int, typer.Option(help="texts to label")] = 36,
    store: Annotated[int, typer.Option(help="labeled texts, at most 24: each has a template of its own")] = 20,
    ways: Annotated[str, typer.Option(help="kinds of examples, with commas between them")] = ",".join(WAYS),
) -> None:
    """Label the texts in every way and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    gold, begun = make_texts("texts", texts), time.monotonic()
    write_rows(out / "test.jsonl", [as_row(f"test-{n:03}", *each) for n, each in enumerate(make_texts("test", texts))])
    labeled = [as_row(f"store-{n:03}", *each) for n, each in enumerate(make_texts("store", min(store, 24)))]
    asked = [as_row(f"text-{n:03}", text, None) for n, (text, _) in enumerate(gold)]
    write_rows(out / "texts.jsonl", [*labeled, *asked])
    jobs = {}
    for way in ways.split(","):
        fixed = [f"name=annotate-{way}", f"seeds.source={out / 'texts.jsonl'}", "annotate.store=1.0"]
        recipe = ROOT / "recipes" / "systems" / "annotate.yaml"
        loaded = load_recipe(recipe, SynthesisRecipe, [*fixed, *WAYS[way], *(overrides or [])])
        jobs[way] = make_job(loaded, RunFolder(out / way), read_suite=suite_items)
    made = run_jobs(list(jobs.values()), View(out / "log.jsonl"), out / "logs")
    found = {
        way: measure(list(read_candidates(out / way / "lineage.parquet")), gold,
                     made[job.recipe.name]["annotation"], job.recipe)
        for way, job in jobs.items()
    }  # fmt: skip
    print_table(found)
    seconds = round(time.monotonic() - begun, 1)
    print(f"{seconds:.0f} s with engine start-up")
    write_json(out / "annotation.json", {"ways": found, "seconds": seconds, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
