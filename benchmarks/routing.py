"""Measure routing among members: a chain by confidence, and a choice by competence, on questions of known answers.

Run as: python benchmarks/routing.py ask --data-dir DATA --out routing/ [--count 50]
        python benchmarks/routing.py table --out routing/

Every question has the answer yes or no, each for one half of a kind. `ask` reads each member's probability of yes; it
keeps a ledger, so a stopped run goes on where it was. `table` needs no model. It prints two parts:

- The chain, cheapest member first, with both ways to combine. Thresholds and ranks come from one half of the items and
  route the other half. Beside it are each member, all of them, and random routing of equal shares (200 draws).
- Competence, which is predicted from kind and length of the question, less `price` times the cost. The router asks one
  member a question. A vote asks those that are worth it. Beside them are the best member, a random one, the vote of
  all, and the oracle.

Log-odds of yes are calibrated at even odds, without the item itself. Predictions of competence are cross-fitted. The
best member is the best on these items, which favors it. Intervals are of 95 %, paired by item. Cost is tokens times
billions of parameters an item. What `ask` wrote is in answers.json, the tables are in routing.json.

| kind | question | the answer is yes when |
|---|---|---|
| boolq | a passage and a question | the passage says so |
| sciq, arc_easy, openbookqa, mmlu | a question and one choice: is it right? | it is the right choice |
| sums | a word problem and a result: is it right? | it is the published result |
| puzzles | a yes-or-no task of BBH | the published answer is yes |
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from numpy.typing import ArrayLike, NDArray
from review_truth import MODELS, WAYS, members_of

from gra.config.committee import MemberConfig
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.hashing import digest
from gra.core.processes.concurrency import together
from gra.core.progress import View
from gra.core.run_folder import environment
from gra.core.types import Usage
from gra.core.vocabulary import CallPurpose
from gra.engines.broker import Broker
from gra.evaluation.benchmarks.load import resolve_benchmark
from gra.ledger.ledger import Ledger
from gra.serving.models import find_models, running
from gra.stats.chain import Combine, macro_f1, route_halves
from gra.stats.competence import fit_competence, measure_routing, select_panel
from gra.stats.paired import paired_difference, wilson
from gra.stats.panel import crossed, log_odds
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member, make_member
from gra.synthesis.committee.reviewer import YES_NO
from gra.synthesis.committee.roles import SampleKind
from gra.synthesis.measuring.competence import features

Row = Mapping[str, Any]
Table = NDArray[np.float64]
KINDS = ("boolq", "sciq", "arc_easy", "openbookqa", "mmlu", "sums", "puzzles")
MEMBERS = "135m,0.5b,1.5b"
PRICES = (0.0, 0.1, 0.3)
LONGEST = 700  # characters of a question, so that two cores can read them all in minutes
_DRAWS = 1000
_LAST_WORDS = "Reply with one word, yes or no."
app = typer.Typer(help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class LabelItem:
    """A question whose answer is yes or no."""

    id: str
    kind: str
    text: str
    yes: bool


def make_items(kind: str, count: int, data: Path) -> list[LabelItem]:
    """Load the items of one kind: as many with the answer yes as with the answer no."""
    name = {"sums": "gsm8k", "puzzles": "bbh"}.get(kind, kind)
    with resolve_benchmark(name, data).path.open(encoding="utf-8") as lines:
        rows = sorted(map(json.loads, lines), key=lambda row: digest([kind, row["id"]]))
    return balanced(kind, rows, count)


def balanced(kind: str, rows: Sequence[Row], count: int) -> list[LabelItem]:
    """Return up to `count` items, half of them with the answer yes; a row is used once.

    Args:
        kind: of the items.
        rows: of the benchmark, in the order in which they are taken.
        count: of the items.
    """
    found: dict[bool, list[LabelItem]] = {True: [], False: []}
    wanted = {True: count - count // 2, False: count // 2}
    for row in rows:
        open_ = [yes for yes in (True, False) if len(found[yes]) < wanted[yes]]
        # The answer with fewer items comes first; a row whose answer is fixed serves where it is still needed.
        for yes in sorted(open_, key=lambda yes: len(found[yes]) / wanted[yes]):
            text = _QUESTIONS[kind](row, yes)
            if text is not None and len(text) <= LONGEST:
                found[yes].append(LabelItem(str(row["id"]), kind, f"{text}\n{_LAST_WORDS}", yes))
                break
    return found[True] + found[False]


def _passage(row: Row, yes: bool) -> str | None:
    return str(row["question"]) if (row["choices"][row["answer"]] == "yes") == yes else None


def _choice(row: Row, yes: bool) -> str | None:
    others = [text for place, text in enumerate(row["choices"]) if place != row["answer"]]
    shown = row["choices"][row["answer"]] if yes else random.Random(str(row["id"])).choice(others)
    return _proposed(row["question"], shown)


def _sum(row: Row, yes: bool) -> str | None:
    """Return a word problem with its result, or with an intermediate result in its place."""
    worked, _, result = str(row["answer"]).rpartition("####")
    steps = [line.partition(">>")[0].rpartition("=")[2] for line in worked.splitlines() if ">>" in line]
    other = next((step for step in reversed(steps) if step and step != result.strip().replace(",", "")), None)
    shown = result.strip() if yes else other
    return None if shown is None else _proposed(row["question"], shown)


def _puzzle(row: Row, yes: bool) -> str | None:
    return str(row["question"]) if str(row["answer"]).casefold() == ("yes" if yes else "no") else None


def _proposed(question: str, answer: str) -> str:
    return f"Question: {question.strip()}\nProposed answer: {answer}\nIs the proposed answer right?"


_QUESTIONS: dict[str, Callable[[Row, bool], str | None]] = {
    "boolq": _passage, "sciq": _choice, "arc_easy": _choice, "openbookqa": _choice, "mmlu": _choice,
    "sums": _sum, "puzzles": _puzzle,
}  # fmt: skip


async def label(broker: Broker, members: Mapping[str, Member], items: Sequence[LabelItem]) -> list[dict[str, Any]]:
    """Ask every member about every item; a member without an answer has no log-odds there."""

    async def one(who: str, item: LabelItem) -> tuple[float | None, float]:
        recorder = CallRecorder(broker, f"{item.kind}-{item.id}")
        call = members[who].call(item.text, YES_NO, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
        try:
            p = (await recorder.ask(call)).value
            odds = float(log_odds(p["yes"] / (p["yes"] + p["no"])))
        except Unanswered:
            odds = None
        spent = sum(recorder.usage.values(), Usage())
        return odds, (spent.prompt_tokens + spent.completion_tokens) * MODELS[who][1]

    pairs = [(who, item) for who in members for item in items]
    given = dict(zip(pairs, await together(*(one(*pair) for pair in pairs)), strict=True))
    return [
        asdict(item) | {
            "odds": {who: given[who, item][0] for who in members},
            "costs": {who: given[who, item][1] for who in members},
        }
        for item in items
    ]  # fmt: skip


async def ask_all(items: Sequence[LabelItem], who: Sequence[str], out: Path, memory_gb: float | None) -> list[Any]:
    """Start the engines and ask the members."""
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "routing", "seeds": {"source": "-"},
            "committee": {"models": {name: {"model": MODELS[name][0]} for name in who}, "reviewers": 0},
            "engine": {"max_model_len": 1024, "concurrency": 32, "kv_cache_gb": 0.5, "memory_gb": memory_gb},
        }
    )  # fmt: skip
    view = View()
    registry = find_models([recipe], view)
    members = {
        name: make_member(name, MemberConfig(model=MODELS[name][0]), ReviewConfig(),
                          registry.model_id(MODELS[name][0]))
        for name in who
    }  # fmt: skip
    ledger = Ledger(out / "ledger.sqlite", run="routing")
    try:
        async with running(registry.pool(out / "logs"), view) as pool:
            return await label(Broker(ledger, pool, call_timeout_s=3600.0), members, items)
    finally:
        ledger.close()


@dataclass(frozen=True)
class Answers:
    """What members said: calibrated log-odds of yes (NaN without an answer), and costs, both members x items."""

    order: tuple[str, ...]
    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    words: tuple[int, ...]
    yes: NDArray[np.bool_]
    raw: Table
    odds: Table
    costs: Table


def read_answers(rows: Sequence[Row]) -> Answers:
    """Return the answers to all items, with the cheapest member first."""
    price = {who: float(np.mean([row["costs"][who] for row in rows])) for who in rows[0]["odds"]}
    order = tuple(sorted(price, key=lambda who: (price[who], who)))
    yes = np.array([row["yes"] for row in rows], bool)
    raw = np.array([[math.nan if (x := row["odds"][who]) is None else x for row in rows] for who in order], float)
    # Rows of a kind stand together, and folds go by place: shuffled, every fold has every kind.
    mixed = np.random.default_rng(0).permutation(len(rows))
    odds = np.empty_like(raw)
    for place, given in enumerate(raw):
        odds[place, mixed] = crossed(given[mixed], yes[mixed], np.ones(len(rows), bool), even_odds=True)
    return Answers(
        order,
        tuple(f"{row['kind']}-{row['id']}" for row in rows),
        tuple(row["kind"] for row in rows),
        tuple(len(row["text"].split()) for row in rows),
        yes,
        raw,
        odds,
        np.array([[row["costs"][who] for row in rows] for who in order], float),
    )


def chain_table(given: Answers) -> dict[str, Any]:
    """Print the chain beside its links, all of them, and random routing; return the figures."""
    found: dict[str, Any] = {}
    by_member = dict(zip(given.order, given.odds, strict=True))
    items = np.arange(len(given.yes))
    for combine in get_args(Combine):
        routed = route_halves(given.order, by_member, given.ids, accept=0.0, combine=combine)
        spent = given.costs.cumsum(axis=0)[routed.last, items]
        alone = [(f"{who} alone", odds, given.costs[place]) for place, (who, odds) in enumerate(by_member.items())]
        others = [*alone, ("all, log-odds added", routed.full, given.costs.sum(axis=0))]
        chain = (routed.found >= 0) == given.yes
        print(f"\nchain, `combine: {combine}`, {' -> '.join(given.order)}; they decide "
              f"{', '.join(f'{np.mean(routed.last == link):.0%}' for link in range(len(given.order)))}")  # fmt: skip
        print("| way | accuracy | macro F1 | chain - it, accuracy | chain - it, macro F1 | cost |")
        print("|---|---|---|---|---|---|")
        lines = {"chain": _line(chain, routed.found, given.yes, spent, None)}
        for name, odds, cost in others:
            lines[name] = _line((odds >= 0) == given.yes, odds, given.yes, cost, routed.found)
        chance = ((routed.random >= 0) == given.yes).mean(axis=0)
        random_f1 = float(np.mean([macro_f1(draw >= 0, given.yes) for draw in routed.random]))
        lines["random routing"] = {
            "accuracy": float(chance.mean()), "macro_f1": random_f1, "cost": float(spent.mean()),
            "gain": _gain(chain.astype(float), chance),
        }  # fmt: skip
        for name, line in lines.items():
            interval = f" [{line['low']:.3f}, {line['high']:.3f}]" if "low" in line else ""
            gains = " | ".join(_shown(line.get(key)) for key in ("gain", "gain_f1"))
            print(f"| {name} | {line['accuracy']:.3f}{interval} | {line['macro_f1']:.3f} | {gains} "
                  f"| {line['cost']:.0f} |")  # fmt: skip
        found[combine] = lines
    return found


def _line(
    right: NDArray[np.bool_], odds: Table, yes: NDArray[np.bool_], cost: Table, chain: Table | None
) -> dict[str, Any]:
    """Return the figures of one way, and the gain of the chain over it."""
    low, high = wilson(float(right.mean()), len(right))
    line: dict[str, Any] = {
        "accuracy": float(right.mean()), "low": low, "high": high, "macro_f1": macro_f1(odds >= 0, yes),
        "cost": float(cost.mean()),
    }  # fmt: skip
    if chain is not None:
        line["gain"] = _gain(((chain >= 0) == yes).astype(float), right.astype(float))
        draws = np.random.default_rng(0).integers(len(yes), size=(_DRAWS, len(yes)))
        gains = [macro_f1(chain[at] >= 0, yes[at]) - macro_f1(odds[at] >= 0, yes[at]) for at in draws]
        gain = macro_f1(chain >= 0, yes) - line["macro_f1"]
        line["gain_f1"] = (gain, *map(float, np.percentile(gains, [2.5, 97.5])))
    return line


def competence_table(given: Answers) -> dict[str, Any]:
    """Print the router by competence beside simpler choices, at several prices; return the figures."""
    right = np.where(np.isnan(given.odds), math.nan, (given.odds >= 0) == given.yes).T
    domains = list(dict.fromkeys(given.kinds))
    shown = [features(domains, SampleKind(kind, n)) for kind, n in zip(given.kinds, given.words, strict=True)]
    mixed = np.random.default_rng(1).permutation(len(given.ids))
    fitted = fit_competence(given.order, np.array(shown)[mixed], right[mixed], [given.ids[n] for n in mixed])
    order, table, odds, yes = given.order, right[mixed], given.odds.T[mixed], given.yes[mixed]
    mean = given.costs.mean(axis=1)
    shares = dict(zip(order, map(float, mean / mean.max()), strict=True))
    print("\n| kind | items | " + " | ".join(order) + " |\n|---|---|" + "---|" * len(order))
    by_kind = {}
    for kind in domains:
        at = np.array(given.kinds) == kind
        by_kind[kind] = dict(zip(order, np.nanmean(right[at], axis=0).tolist(), strict=True))
        print(f"| {kind} | {at.sum()} | " + " | ".join(f"{x:.2f}" for x in by_kind[kind].values()) + " |")
    votes = np.sign(np.nan_to_num(odds) + 1e-9)
    majority = (votes.sum(axis=1) >= 0) == yes
    print("\n| price | router | router - best member | vote of those worth it | vote - best member "
          "| vote - that of all | random | oracle | vote of all | differs | cost of router, vote, best |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found: dict[str, Any] = {"by_kind": by_kind, "vote_of_all": float(majority.mean()), "prices": {}}
    for price in PRICES:
        figures = measure_routing(order, fitted, table, shares, price)
        if figures is None:
            continue
        chosen = [
            select_panel(dict(zip(order, p, strict=True)), shares, price, len(order)) for p in fitted.crossed.tolist()
        ]
        weights = np.array([[p * (who in panel) for who, p in zip(order, row, strict=True)]
                            for panel, row in zip(chosen, fitted.crossed, strict=True)])  # fmt: skip
        panel = ((weights * votes).sum(axis=1) >= 0) == yes
        spent = float(np.mean([sum(shares[who] for who in each) for each in chosen]))
        [best] = figures.best
        gains = {
            "vote_over_best": _gain(panel.astype(float), table[:, order.index(best)]),
            "vote_over_all": _gain(panel.astype(float), majority.astype(float)),
        }
        found["prices"][price] = figures.to_json() | {"vote": float(panel.mean()), "vote_cost": spent} | gains
        print(
            f"| {price} | {figures.router:.3f} | {_shown(figures.gain)} ({best}) | {panel.mean():.3f} "
            f"| {_shown(gains['vote_over_best'])} | {_shown(gains['vote_over_all'])} | {figures.random:.3f} "
            f"| {figures.oracle:.3f} | {majority.mean():.3f} | {figures.differs:.0%} "
            f"| {figures.cost:.2f}, {spent:.2f}, {shares[best]:.2f} |"
        )
    print("Costs are shares of the most expensive member's.")
    return found


def _gain(ours: ArrayLike, reference: ArrayLike) -> tuple[float, float, float]:
    """Return the mean difference of the items that both have a score for, with its interval."""
    a, b = np.asarray(ours, float), np.asarray(reference, float)
    both = ~np.isnan(a) & ~np.isnan(b)
    estimate = paired_difference(a[both], b[both], bounded=True)
    return (estimate.value, *estimate.interval())


def _shown(gain: Sequence[float] | None) -> str:
    return "" if gain is None else f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def _counts(kinds: str, count: int) -> Iterator[tuple[str, int]]:
    for each in kinds.split(","):
        kind, _, number = each.partition(":")
        if kind not in KINDS or not (number or "0").isdecimal():
            raise typer.BadParameter(f"`{each}` is not KIND or KIND:NUMBER, with KIND of {', '.join(KINDS)}")
        yield kind, int(number or count)


@app.command()
def ask(
    data_dir: Annotated[Path, typer.Option(help="a folder with benchmark files; others are fetched")],
    out: Annotated[Path, typer.Option(help="where ledger and answers go")],
    count: Annotated[int, typer.Option(help="items a kind, where `kinds` says no other number")] = 50,
    kinds: Annotated[str, typer.Option(help="kinds with commas, such as sciq:100,sums:60")] = ",".join(KINDS),
    members: Annotated[str, typer.Option(help=f"of {', '.join(WAYS)}, with commas")] = MEMBERS,
    memory_gb: Annotated[float | None, typer.Option(help="of all models together; few GB let them take turns")] = None,
) -> None:
    """Ask every member about every item."""
    who = members_of(members)
    out.mkdir(parents=True, exist_ok=True)
    items = [item for kind, number in _counts(kinds, count) for item in make_items(kind, number, data_dir)]
    rows = asyncio.run(ask_all(items, who, out, memory_gb))
    write_json(out / "answers.json", {"rows": rows, "environment": environment()})
    gaps = sum(odds is None for row in rows for odds in row["odds"].values())
    typer.echo(f"{len(rows)} items, {gaps} calls without an answer")


@app.command()
def table(out: Annotated[Path, typer.Option(help="what `ask` wrote")]) -> None:
    """Print the tables and write them as JSON."""
    given = read_answers(json.loads((out / "answers.json").read_text(encoding="utf-8"))["rows"])
    print(f"{len(given.ids)} items; as asked, without calibration: "
          + ", ".join(f"{who} {np.mean((raw >= 0) == given.yes):.3f}" for who, raw in
                      zip(given.order, given.raw, strict=True)))  # fmt: skip
    write_json(out / "routing.json", {"chain": chain_table(given), "competence": competence_table(given)})


if __name__ == "__main__":
    app()
