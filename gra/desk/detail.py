"""Arrange everything that is known of a candidate for its page, as `gra explain` does for a terminal.

A section is a text, a table, or pairs of a name and a value. Texts of models are untrusted: control characters are
replaced here, and the page shows every text as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gra.core.stored.lineage import Request
from gra.core.stored.reader import parse_json
from gra.core.text.plain_text import printable, printable_line
from gra.core.types import ALL_CHECKS, DIMENSIONS, VERSION_NOTES, verifier_mode
from gra.data.lineage import is_scored_once
from gra.ledger.schema import Recorded

Section = dict[str, Any]


def sections(row: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a candidate's page, without its instruction and response."""
    return list(_sections(row))


def _sections(row: Mapping[str, Any]) -> Iterator[Section]:
    if row.get("tests"):
        yield _text("Tests", row["tests"])
    if row.get("thinking"):
        yield _text("Thinking before the response", row["thinking"])
    if row["reviews"]:
        yield _reviews(row)
    if row["ruling"]:
        yield _ruling(row["ruling"])
    if row["programs"]:
        yield _verifications(row["programs"])
    if row["checks"]:
        yield _checks(row["checks"])
    if row.get("drafts"):
        yield _alternatives(row["drafts"])
    if row.get("contamination") and row["contamination"]["verdict"] != "clean":
        yield _contamination(row["contamination"])
    yield _origin(row)


def exchanges(answers: Sequence[Recorded]) -> list[Section]:
    """Return every request and its answer, from the ledger."""
    found = []
    for answer in answers:
        again = f", attempt {answer.attempt + 1}" if answer.attempt else ""
        tokens = f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} tokens"
        title = f"{answer.role} {answer.member} ({answer.model}){again}, {tokens}"
        said = "\n".join(f"[{role}] {content}" for role, content in _messages(answer))
        scores = "; ".join(f"{label} {value:.4g}" for label, value in answer.scores.items())
        text = f"{said}\n\n[answer] {answer.text or scores}" + (f"\n[{scores}]" if answer.text and scores else "")
        found.append(_text(title, text))
    return found


def _messages(answer: Recorded) -> list[tuple[str, str]]:
    if not answer.request:
        return [("request", "no longer in the ledger (`gra ledger compact --drop-requests`)")]
    parsed = parse_json(answer.request, Request, f"the request {answer.key[:12]}")
    return [(role, content) for role, content in parsed["messages"]]


def _text(title: str, text: object) -> Section:
    return {"title": printable_line(title), "kind": "text", "text": printable(text)}


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> Section:
    cells = [[printable(cell) for cell in row] for row in rows]
    return {"title": title, "kind": "table", "columns": list(columns), "rows": cells, "note": note}


def _pairs(title: str, pairs: Mapping[str, object]) -> Section:
    shown = [[name, printable(value)] for name, value in pairs.items() if value not in ("", None)]
    return {"title": title, "kind": "pairs", "rows": shown}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _reviews(row: Mapping[str, Any]) -> Section:
    reviews = row["reviews"]
    names = [name for name in DIMENSIONS if any(name in review["values"] for review in reviews)]
    comments = any(review["comment"] for review in reviews)
    rows = [
        [r["reviewer"], _number(r["score"]), *(_number(r["values"].get(name)) for name in names)]
        + ([r["comment"]] if comments else [])
        for r in reviews
    ]
    # Of some ways to ask, the values of the criteria are no scores but logarithms of probabilities.
    columns = ("reviewer", "score (0-10)", *(f"{name} (raw)" for name in names), *(["comment"] if comments else []))
    return _table("Reviews", columns, rows, _summary(row))


def _summary(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return ""
    if is_scored_once(row):
        return f"score {_number(row['mean'])} from one reviewer alone: nothing shows whether others would agree"
    spread = f", spread {_number(row['std'])}" if row["std"] is not None else ""
    return f"mean {_number(row['mean'])}{spread}" + (", disputed" if row["disputed"] else "")


def _ruling(ruling: Mapping[str, Any]) -> Section:
    verdict = "kept" if ruling["kept"] else "rejected"
    values = [ruling["adjudicator"], _number(ruling["score"]), verdict, ruling["comment"]]
    return _table("Ruling", ("adjudicator", "score", "verdict", "comment"), [values])


def _verifications(verdicts: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for verdict in verdicts:
        found = [f"broken: {text}" for text in verdict.get("broken", ())]
        found += [f"holds: {text}" for text in verdict.get("held", ())]
        mode = verifier_mode(verdict["takes"])
        rows.append([verdict["program"], mode, verdict["outcome"], "\n".join(found or [verdict.get("why", "")])])
    return _table("Verifiers", ("verifier", "mode", "verdict", "what it found"), rows)


def _checks(checks: Sequence[Mapping[str, Any]]) -> Section:
    asked = [check for check in checks if check["values"] or check["failed"]]  # others have no check to answer
    shown = [name for name in ALL_CHECKS if any(name in check["values"] for check in asked)]
    rows = [[c["reviewer"], *(_number(c["values"].get(name)) for name in shown), _outcome(c["failed"])] for c in asked]
    return _table("Checks of the instruction", ("reviewer", *shown, "outcome"), rows)


def _outcome(failed: Sequence[str]) -> str:
    return f"failed: {', '.join(failed)}" if failed else "passed"


def _alternatives(alternatives: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for other in alternatives:
        score = other["ruling"]["score"] if other["ruling"] else other["mean"]
        number = f"{other['number'] + 1}{VERSION_NOTES.get(other.get('version'), '')}"
        rows.append([number, _number(score), other["reason"], other["response"]])
    return _table("Responses not taken", ("number", "score", "why", "response"), rows)


def _contamination(found: Mapping[str, Any]) -> Section:
    pairs = {
        "verdict": found["verdict"],
        "item": f"{found['item']} of {found['task']} ({found['method']} {found['score']:.2f})",
        "text of the item": found["text"],
        "text of the row": found["row_text"],
    }
    return _pairs("Test items", pairs)


def _origin(row: Mapping[str, Any]) -> Section:
    near = f" at cosine {row['similarity']:.3f}" if row["similarity"] is not None else ""
    cost = "; ".join(
        f"{role} {used['calls']} calls, {used['prompt_tokens']:,} + {used['completion_tokens']:,} tokens"
        for role, used in row["usage"].items()
    )
    pairs = {
        "arm": f"{row['arm']}, round {row['round']}, domain {row['domain']}",
        "generator": row["generator"],
        "reviewers": ", ".join(row["reviewers"]),
        "adjudicator": row["adjudicator"],
        "parents": ", ".join(row["parents"]),
        "keywords": ", ".join(row["keywords"]),
        "nearest row": f"{row['neighbour']}{near}" if row["neighbour"] else "",
        "cost": cost,
    }
    return _pairs("Origin", pairs)
