"""Show everything about one candidate on one screen: `gra explain runs/quickstart r1-000004`.

A terminal gets texts that are shortened until all of it fits the screen. `--full` shortens nothing, and adds every
request and its answer.

Texts of models are untrusted: markup in them is shown as text, and control characters are replaced.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gra.core.errors import DataError
from gra.core.files import refuse_special_files
from gra.core.stored.lineage import Request
from gra.core.stored.reader import parse_json
from gra.core.stored.resolved_recipe import find_ledger
from gra.core.text.plain_text import printable, printable_line
from gra.core.types import ALL_CHECKS, CHECKS, DIMENSIONS, VERSION_NOTES, State, verifier_mode
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.lineage import read_lineage, shown_reason
from gra.ledger.ledger import Recorded
from gra.ledger.reader import LedgerReader
from gra.runs.contents import Row, find_lineages
from gra.runs.decisions import decided_row, read_decisions
from gra.runs.panel import Measured, read_measured

_STYLES = {State.ACCEPTED: "green", State.DUPLICATE: "yellow", State.SURPLUS: "yellow"}
_NEAR = 5


@dataclass(frozen=True)
class _Limits:
    """Limit what is shown.

    Attributes:
        lines: of 80 characters, of each text; None for all.
        comment: the same of each comment; 0 hides comments.
        blank_lines: whether parts are separated by blank lines.
    """

    lines: int | None
    comment: int | None
    blank_lines: bool = True

    @property
    def hide_comments(self) -> bool:
        return self.comment == 0

    def text(self, text: str) -> str:
        return fold(printable(text), self.lines)

    def comment_text(self, text: str) -> str:
        return fold(printable(text), self.comment)

    def gap(self) -> Iterator[RenderableType]:
        if self.blank_lines:
            yield Text()


_FULL = _Limits(None, None)
_LIMITS = (  # the first that fits the screen
    _Limits(15, 5),
    _Limits(8, 3),
    _Limits(5, 2, blank_lines=False),
    _Limits(3, 1, blank_lines=False),
    _Limits(1, 0, blank_lines=False),
)


class _OneScreen:
    """Show a page that fits the terminal's height; without a terminal, a page within the widest limits."""

    def __init__(self, render: Callable[[_Limits], RenderableType]) -> None:
        self._render = render

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for limits in _LIMITS:
            page = self._render(limits)
            # The shell needs the last line of the screen.
            if not console.is_terminal or len(console.render_lines(page, options)) < console.size.height:
                break
        yield page


def explain(run: Path, candidate_id: str, *, full: bool = False) -> RenderableType:
    """Show one candidate: origin, texts, checks, reviews, ruling, alternatives, nearest row, cost and verdict.

    Raises:
        DataError: the run has no lineage, or no candidate of this name; the message has close names.
    """
    refuse_special_files(run)
    lineages = find_lineages(run)
    if not lineages:
        raise DataError(
            f"{run} has no lineage.parquet, nor has an arm in {run / 'arms'}; is it a finished synthesis run?"
        )
    rows_by_file = {file: read_lineage(file) for file in lineages}
    found = [
        (decided_row(row, read_decisions(file.parent)), file)
        for file, rows in rows_by_file.items()
        for row in rows
        if row["candidate_id"] == candidate_id
    ]
    pages: list[RenderableType] = [
        _full(row, file, rows_by_file) if full else _OneScreen(partial(_page, row, file, rows_by_file))
        for row, file in found
    ]
    if not pages:
        raise DataError(_unknown(run, candidate_id, rows_by_file))
    return Group(*pages)


def _unknown(run: Path, candidate_id: str, rows_by_file: Mapping[Path, list[Row]]) -> str:
    ids = [row["candidate_id"] for rows in rows_by_file.values() for row in rows]
    near = difflib.get_close_matches(candidate_id, ids, n=_NEAR, cutoff=0.6)
    shown = f"ids look like {', '.join(ids[:3])}" if ids else "it has no candidates"
    hint = f"close: {', '.join(near)}" if near else shown
    return f"{run} has no candidate `{candidate_id}` among its {len(ids):,}; {hint}"


def _full(row: Row, file: Path, rows_by_file: Mapping[Path, list[Row]]) -> RenderableType:
    ledger = find_ledger(file.parent)
    if ledger is None or not row["calls"]:
        return _page(row, file, rows_by_file, _FULL)
    reader = LedgerReader(ledger)
    answers = reader.answers(row["calls"])
    reader.close()
    return Group(_page(row, file, rows_by_file, _FULL), *(part for answer in answers for part in _exchange(answer)))


def _exchange(answer: Recorded) -> Iterator[RenderableType]:
    """Show one request and its answer from the ledger."""
    again = f", attempt {answer.attempt + 1}" if answer.attempt else ""
    cost = f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} tokens"
    who = f"{answer.role} {answer.member} ({answer.model}){again}, {cost}, {answer.key[:12]}"
    yield Text(f"\n{printable_line(who)}", style="bold")
    if not answer.request:
        yield Text("the request is no longer in the ledger (`gra ledger compact --drop-requests`)", style="dim")
    for role, content in (
        parse_json(answer.request, Request, f"the request {answer.key[:12]}")["messages"] if answer.request else ()
    ):
        yield Text.assemble((f"{printable(role)}  ", "dim"), printable(content))
    scores = "; ".join(f"{printable(label)} {value:.4g}" for label, value in answer.scores.items())
    yield Text.assemble(
        ("answer  ", "dim"), printable(answer.text) or scores, f"  [{scores}]" if answer.text and scores else ""
    )


def _page(row: Row, file: Path, rows_by_file: Mapping[Path, list[Row]], limits: _Limits) -> RenderableType:
    style = _STYLES.get(row["state"], "red")
    verdict = Text.assemble((row["state"].upper(), f"bold {style}"), "  ", printable(shown_reason(row["reason"], row)))
    if before := row.get("before"):
        was = f"{before.get('state', row['state'])}: {shown_reason(before.get('reason', row['reason']), row)}"
        verdict.append(f"\nbefore people decided: {printable(was)}", "dim")
    body = Group(verdict, *limits.gap(), *_parts(row, _texts(rows_by_file), limits, read_measured(file.parent)))
    title = Text(f" {printable(row['candidate_id'])} ", style="bold")
    return Panel(
        body,
        title=title,
        title_align="left",
        subtitle=Text(f" {printable_line(file)} "),
        subtitle_align="right",
        border_style=style,
    )


def _parts(row: Row, texts: Mapping[str, str], limits: _Limits, measured: Measured) -> Iterator[RenderableType]:
    yield _facts(row, texts)
    yield from _written(row, "instruction", limits)
    if row.get("tests"):
        yield from _passage("tests", row["tests"], limits)
    if row["checks"]:
        yield from limits.gap()
        yield _checks(row["checks"], limits)
    stopped = row["rejected_at"] == RejectedAt.INSTRUCTION_CHECK
    if row["response"] or (row["instruction"] and not stopped):
        yield from _written(row, "response", limits)
    if row["programs"]:
        yield from limits.gap()
        yield _verifications(row["programs"])
    if row["reviews"]:
        yield from limits.gap()
        yield from _reviews(row, limits, measured)
    if row["ruling"]:
        yield from limits.gap()
        yield _ruling(row["ruling"], limits)
    if row.get("drafts"):
        yield from limits.gap()
        yield from _alternatives(row["drafts"], limits)
    if row.get("contamination"):
        yield from limits.gap()
        yield from _contamination(row["contamination"], limits)
    for decision in row.get("decisions") or ():
        yield _decision(decision)
    yield from limits.gap()
    yield _cost(row)


def _facts(row: Row, texts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("arm", Text(f"{printable(row['arm'])}, round {row['round']}, domain {printable(row['domain'])}"))
    roles = {"generator": row["generator"], "reviewers": ", ".join(row["reviewers"]), "adjudicator": row["adjudicator"]}
    present = [f"{role} {printable(name)}" for role, name in roles.items() if name]
    if present:
        table.add_row("roles", Text("; ".join(present)))
    for parent in row["parents"]:
        known = texts.get(parent, "")
        table.add_row("parent", Text(printable(parent) + (f": {_first_line(known)}" if known else "")))
    if row["keywords"]:
        table.add_row("keywords", Text(" · ".join(map(printable, row["keywords"]))))
    if row["neighbour"]:
        near = f" at cosine {row['similarity']:.3f}" if row["similarity"] is not None else ""
        table.add_row(
            "nearest",
            Text(f"{printable(row['neighbour'])}{near}: {_first_line(texts.get(row['neighbour'], ''))}".rstrip(": ")),
        )
    return table


def _passage(name: str, text: str, limits: _Limits) -> Iterator[RenderableType]:
    shown = Text(limits.text(text)) if text else Text("not written", style="italic dim")
    if limits.blank_lines:
        yield Text()
        yield Text(name, style="bold")
        yield shown
    else:
        yield Text.assemble((f"{name}  ", "bold"), shown)


def _written(row: Row, name: str, limits: _Limits) -> Iterator[RenderableType]:
    """Show a text of the row, and the text before a person's edit, which is what was reviewed."""
    yield from _passage(name, row[name], limits)
    if name in row.get("before", {}):
        yield from _passage(f"{name} before the edit, as it was reviewed", row["before"][name], limits)


def _checks(checks: list[dict[str, Any]], limits: _Limits) -> RenderableType:
    if limits.hide_comments and not any(check["failed"] for check in checks):
        return Text(f"instruction checks  all passed: {', '.join(printable(check['reviewer']) for check in checks)}")
    # The paper's checks, and those that the recipe adds.
    shown = [name for name in ALL_CHECKS if name in CHECKS or any(name in c["values"] for c in checks)]
    table = _table("instruction checks", *shown)
    for check in checks:
        cells = [
            Text(f"{check['values'][name]:.2f}", style="red" if name in check["failed"] else "")
            if name in check["values"]
            else Text("no opinion", style="dim")
            for name in shown
        ]
        table.add_row(Text(printable(check["reviewer"])), *cells)
    return table


def _verifications(verdicts: list[dict[str, Any]]) -> Table:
    table = _table("verifiers", "mode", "verdict", "what it found")
    for verdict in verdicts:
        style = {"passed": "green", "failed": "red"}.get(verdict["outcome"], "dim")
        mode = verifier_mode(verdict["takes"])
        score = f", score {verdict['score']:.2f}" if mode == "score" and "score" in verdict else ""
        found = [f"broken: {text}" for text in verdict.get("broken", ())]
        found += [f"holds: {text}" for text in verdict.get("held", ())]
        said = Text(printable("\n".join(found or [verdict.get("why", "")])))
        outcome = Text(f"{verdict['outcome']}{score}", style=style)
        table.add_row(Text(printable(verdict["program"])), mode, outcome, said)
    return table


def _reviews(row: Row, limits: _Limits, measured: Measured) -> Iterator[RenderableType]:
    table = _table("reviews", "score", "raw", *(["AUC"] if measured.auc else []), "what it said")
    for review in row["reviews"]:
        values = review["values"]
        said = " · ".join(f"{name} {values[name]:.1f}" for name in DIMENSIONS if name in values)
        if review["comment"] and not limits.hide_comments:
            said += f"\n“{limits.comment_text(review['comment'])}”"
        auc = measured.auc.get(review["reviewer"])  # programs have none
        shown = ([f"{auc:.2f}" if auc is not None else ""]) if measured.auc else []
        scores = (f"{review['score']:.2f}", f"{review['raw']:.2f}", *shown)
        table.add_row(Text(printable(review["reviewer"])), *scores, Text(said))
    yield table
    if row["mean"] is not None:
        spread = "" if row["std"] is None else f", spread {row['std']:.2f}"
        yield Text(f"mean {row['mean']:.2f}{spread}{', disputed' if row['disputed'] else ''}", style="bold")
    if not limits.hide_comments:
        yield from (Text(printable(sentence), style="dim") for sentence in measured.sentences)


def _alternatives(alternatives: list[dict[str, Any]], limits: _Limits) -> Iterator[RenderableType]:
    table = _table("response not taken", "score", "why", "text")
    for alternative in alternatives:
        score = alternative["ruling"]["score"] if alternative["ruling"] else alternative["mean"]
        said = printable(alternative["response"]) if limits.lines is None else _first_line(alternative["response"])
        reviews = " ".join(f"{printable(r['reviewer'])} {r['score']:.1f}" for r in alternative["reviews"])
        shown = "" if score is None else f"{score:.2f}"
        why = printable(alternative["reason"]) + (f" ({reviews})" if reviews else "")
        number = f"{alternative['number'] + 1}{VERSION_NOTES.get(alternative.get('version'), '')}"
        table.add_row(number, shown, Text(why), Text(said))
    yield table
    # The author of a revision read the first version and its comments.
    for first in (alternative for alternative in alternatives if alternative.get("version") == "first"):
        yield from _passage("first version", first["response"], limits)
        for review in first["reviews"] if not limits.hide_comments else ():
            if review["comment"]:
                said = f"{printable(review['reviewer'])}: “{limits.comment_text(review['comment'])}”"
                yield Text(said, style="dim")


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)


def _ruling(ruling: Mapping[str, Any], limits: _Limits) -> Text:
    kept = ("kept", "bold green") if ruling["kept"] else ("rejected", "bold red")
    score = f"{printable(ruling['adjudicator'])} scores {ruling['score']:.2f}: "
    text = Text.assemble(("ruling  ", "bold"), score, kept)
    shown = ruling["comment"] and not limits.hide_comments
    return text + Text(f"\n  {limits.comment_text(ruling['comment'])}" if shown else "")


def _decision(decision: Mapping[str, Any]) -> Text:
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(decision["written"]))
    verdict = HumanVerdict(decision["verdict"])
    style = {HumanVerdict.KEEP: "bold green", HumanVerdict.DROP: "bold red"}.get(verdict, "bold yellow")
    return Text.assemble(
        ("person  ", "bold"), printable_line(decision["reviewer"]), ": ", (verdict, style), f", {when} UTC"
    )


def _contamination(found: Mapping[str, Any], limits: _Limits) -> Iterator[Text]:
    """Show the verdict of the check against a suite, and the text that the row shares with the nearest item."""
    style = {"clean": "green", "suspect": "yellow"}.get(found["verdict"], "red")
    verdict = Text.assemble(("test items  ", "bold"), (found["verdict"], f"bold {style}"))
    if found["verdict"] == "clean":
        yield verdict
        return
    run = f", {found['longest']} words in a row" if found["longest"] else ""
    more = f"; {found['matches'] - 1} more items" if found["matches"] > 1 else ""
    where = f"item {found['item']} of {found['task']} ({found['method']} {found['score']:.2f}{run}){more}"
    yield verdict + Text(f": {printable_line(where)}")
    if not limits.hide_comments:
        yield Text.assemble(("  item  ", "dim"), limits.comment_text(found["text"]))
        yield Text.assemble(("  row   ", "dim"), limits.comment_text(found["row_text"]))


def _cost(row: Row) -> Text:
    parts = [
        f"{role} {used['calls']} calls, {used['prompt_tokens']:,} + {used['completion_tokens']:,} tokens"
        for role, used in row["usage"].items()
    ]
    if not parts:
        return Text("cost    nothing was asked of a model", style="dim")
    shown = printable_line("; ".join(parts))
    return Text(f"cost    {shown}; {len(row['calls'])} answers in the ledger", style="dim")


def _texts(rows_by_file: Mapping[Path, list[Row]]) -> dict[str, str]:
    """Return instructions by id: those of all candidates, and of the seeds that candidates were copied from."""
    found: dict[str, str] = {}
    for rows in rows_by_file.values():
        for row in rows:
            found[row["candidate_id"]] = row["instruction"]
            if len(row["parents"]) == 1:
                found[row["parents"][0]] = row["instruction"]
    return found


def fold(text: str, lines: int | None) -> str:
    """Shorten a text to lines of 80 characters and append how much was left out.

    Args:
        text: of any length.
        lines: the most lines; None shortens nothing.
    """
    if lines is None:
        return text
    shown = "\n".join(text[: 80 * lines].splitlines()[:lines])
    left = len(text) - len(shown)
    if left <= 0:
        return shown
    return f"{shown}{' ' if lines == 1 else chr(10)}… {left:,} more characters"


def _first_line(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= 90 else line[:89] + "…"
