"""Serve a run to people: its candidates as they come, and what people decide about them."""

from __future__ import annotations

import re
import shlex
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gra.checks.instruction_constraints import read_constraints
from gra.core.errors import DataError, GraError
from gra.core.files import refuse_special_files
from gra.core.stored.resolved_recipe import RESOLVED, find_ledger, read_resolved_recipe
from gra.core.text.plain_text import printable
from gra.core.text.special_tokens import SpecialTokens
from gra.core.types import HumanDecision, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.lineage import shown_reason
from gra.desk.detail import exchanges, sections
from gra.desk.estimate import DrawnRow, gate_curve, random_part, reviewer_agreement, summary
from gra.desk.index import CandidateIndex, Filters, head
from gra.desk.sources import RunSource, open_source
from gra.ledger.decisions import DecisionLog
from gra.ledger.reader import LedgerReader
from gra.runs.decisions import last_decisions, run_name, standing, why_not_kept

_POLL_S = 0.5
_KINDS_AT_ONCE = 64
_NAME = re.compile(r"[\w.-]{1,40}")
_MOST_COMPARED = 1000  # decided candidates that reviewers are compared on
_LONGEST = 2_000_000  # characters of an edited text


class Undecidable(GraError):
    """A decision cannot be recorded."""


@dataclass(frozen=True)
class DecisionRequest:
    """What a person asks to record.

    Attributes:
        name: the person's name.
        subject: digest of the texts that the person saw.
    """

    name: str
    candidate: str
    verdict: HumanVerdict
    subject: str
    instruction: str = ""
    response: str = ""


class Desk:
    """A run, the index of its candidates, and the log of decisions."""

    def __init__(self, run: Path) -> None:
        """Open a run; nothing is read of its candidates yet.

        Raises:
            DataError: the folder is no run, its ledger is missing or damaged, or it cannot be written.
        """
        self.run, self.ledger = run, _ledger_of(run)
        self.name = run_name(run)
        self._log = DecisionLog(self.ledger, self.name)
        try:
            self._source: RunSource = open_source(run, self.ledger, self.name)
        except BaseException:
            self._log.close()
            raise
        self.index = CandidateIndex(self.name)
        self._decisions: dict[str, list[HumanDecision]] = {}
        self._reviews: dict[str, dict[str, float]] = {}  # scores of decided candidates, by reviewer
        self._last = 0
        self._deciding = threading.Lock()
        self._problem = ""
        self._loaded = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="desk", daemon=True)

    def start(self) -> None:
        """Begin to read candidates, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and close all files."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self.index.close()
        self._log.close()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            more = False
            try:
                self.refresh()
                more = self._read_kinds()
                self._problem = ""
            except (GraError, OSError, sqlite3.Error) as error:  # shown on the page; the next try may succeed
                self._problem = str(error)
            if not more:
                self._stopping.wait(_POLL_S)

    def refresh(self) -> None:
        """Read what is new: candidates, decisions, and the lineage of a run that has finished.

        Raises:
            GraError: a file is damaged.
        """
        if self._source.stale():
            self._source = open_source(self.run, self.ledger, self.name)
            # A lineage has fewer candidates than the ledger, and they have other places there.
            self.index.clear()
            self._reviews.clear()
            self._loaded = False
        for candidates in self._source.changes():
            with self._deciding:  # a decision that comes now is shown after them
                self.index.add(candidates)
                self._show({candidate.id for candidate in candidates}.intersection(self._decisions))
            if self._stopping.is_set():
                return
            time.sleep(0)  # a request goes first
        self._loaded = True
        self.read_decisions()

    def read_decisions(self) -> None:
        """Read the decisions that were written since the last call, by anyone.

        Raises:
            DataError: a decision is not what was written.
        """
        with self._deciding:
            changed = set()
            for number, candidate, decision in self._log.since(self._last):
                self._decisions.setdefault(candidate, []).append(decision)
                self._last = number
                changed.add(candidate)
            self._show(changed)

    def _show(self, candidates: set[str]) -> None:
        found = {}
        for name in candidates:
            if (row := self.index.find(name)) is not None:
                last = standing(self._decisions[name], row[2])[-1:]
                found[name] = (last[0].verdict.value, last[0].reviewer) if last else ("", "")
        if found:
            self.index.decide(found)

    def _read_kinds(self) -> bool:
        """Read the format constraints of some instructions; return whether there were any left."""
        waiting = self.index.without_kinds(_KINDS_AT_ONCE)
        if waiting:
            self.index.set_kinds(
                {name: dict.fromkeys(c.kind for c in read_constraints(text)) for name, text in waiting}
            )
            self._stopping.wait(0.02)  # requests need the processor more
        return bool(waiting)

    def status(self) -> dict[str, Any]:
        """Return the state of the desk, for the page."""
        facets = self.index.facets()
        changes = sum(count * _effect(*made) for made, count in self.index.standing().items())
        return {
            "run": printable(self.name),
            "folder": printable(self.run),
            "finished": self._source.finished,
            "loaded": self._loaded,
            "changed": self.index.changed,
            "problem": printable(self._problem),
            "facets": facets,
            "rows": facets["state"].get(State.ACCEPTED, 0) + changes,
        }

    def rows(self, filters: Filters, order: str, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return one page of a list with the texts of edits, and the number of candidates in the whole list."""
        rows, count = self.index.listed(filters, order, offset, limit)
        for row in rows:
            made = self._last_about(row["id"])
            row["skipped"] = _all_skipped(made)
            if edit := _edit_in_force(made):
                row |= {part: head(text) for part, text in _texts(edit).items()}
        return rows, count

    def candidate(self, name: str) -> dict[str, Any] | None:
        """Return everything that is known of a candidate; None where there is none of this id.

        Raises:
            DataError: its record is damaged.
        """
        found = self.index.find(name)
        if found is None:
            return None
        row = self._source.record(name, found[0])
        made, last = self._decisions.get(name, []), self._last_about(name)
        edit = _edit_in_force(last)
        return {
            "id": name,
            "state": row["state"],
            "reason": printable(shown_reason(row["reason"], row)),
            "score": row["mean"],
            "instruction": printable(row["instruction"]),
            "response": printable(row["response"]),
            "raw": {"instruction": row["instruction"], "response": row["response"]},
            "subject": HumanDecision.subject_of(row["instruction"], row["response"]),
            "sections": sections(row),
            "decisions": [_decision_json(decision) for decision in made],
            "last": [{"reviewer": each.reviewer, "verdict": each.verdict} for each in last],
            "edited": _decision_json(edit) | {"raw": _texts(edit)} if edit else None,
            "closed": _why_closed(row["state"]),
            "calls": len(row["calls"]),
        }

    def calls(self, name: str) -> list[dict[str, Any]] | None:
        """Return every request and answer of a candidate; None where there is none of this id."""
        found = self.index.find(name)
        if found is None:
            return None
        reader = LedgerReader(self.ledger)
        try:
            return exchanges(reader.answers(self._source.record(name, found[0])["calls"]))
        finally:
            reader.close()

    def estimate(self) -> dict[str, Any]:
        """Return how good the accepted rows are, the curve of the gate, and how reviewers agree with people.

        Raises:
            DataError: a record is damaged.
        """
        rows = [DrawnRow(*row) for row in self.index.drawn(State.ACCEPTED)]
        below = [DrawnRow(*row) for row in self.index.drawn(State.REJECTED, RejectedAt.MEAN_SCORE)]
        others = self.index.taken(RejectedAt.MEAN_SCORE)
        skipped = {name for name in self._decisions.copy() if _all_skipped(self._last_about(name))}
        decided, left_open = random_part(rows, skipped)
        gate = (read_resolved_recipe(self.run).get("review") or {}).get("accept_mean")
        verdicts = self.index.verdicts(_MOST_COMPARED)
        new = {name: place for name, (place, _) in verdicts.items() if name not in self._reviews}
        for name, reviews in self._source.reviews(new).items():
            self._reviews[name] = {printable(review["reviewer"]): review["score"] for review in reviews}
        people = {name: verdict for name, (_, verdict) in verdicts.items()}
        return {
            **summary(rows, decided, left_open),
            "gate": gate,
            "curve": gate_curve(rows, decided, below, gate, others),
            "reviewers": reviewer_agreement(self._reviews, people),
            "command": f"gra gate {shlex.quote(str(self.run))} review.accept_mean=",
        }

    def _last_about(self, name: str) -> list[HumanDecision]:
        """Return the last decision of each person about a candidate's present texts, oldest first."""
        made = self._decisions.get(name)
        row = self.index.find(name) if made else None
        return last_decisions(made, row[2]) if made and row is not None else []

    def decide(self, asked: DecisionRequest) -> HumanDecision:
        """Record a decision; when this returns, it is on the disk.

        Raises:
            Undecidable: the decision makes no sense, with the reason.
            DataError: the ledger cannot be written.
        """
        if not _NAME.fullmatch(asked.name):
            raise Undecidable("give a name of 1 to 40 letters, digits, dots or dashes")
        self.read_decisions()
        row = self.index.find(asked.candidate)
        if row is None:
            raise Undecidable(f"there is no candidate {printable(asked.candidate)[:80]}")
        place, state, subject = row
        if asked.subject != subject:
            raise Undecidable("its texts have changed since the page was loaded; look at it again")
        reviewer = f"human:{asked.name}"
        verdict, edit = asked.verdict, asked.verdict is HumanVerdict.EDIT
        takes = verdict in (HumanVerdict.KEEP, HumanVerdict.EDIT)
        if takes and (why := _why_closed(state)):
            raise Undecidable(why)
        record = self._source.record(asked.candidate, place) if takes else {}
        if edit and all(_same_text(getattr(asked, part), record[part]) for part in ("instruction", "response")):
            verdict, edit = HumanVerdict.KEEP, False  # nothing was changed
        if verdict is HumanVerdict.KEEP and (why := why_not_kept(record["response"], record["rejected_at"])):
            raise Undecidable(f"{why}; edit or skip it")
        if edit and (token := SpecialTokens().find(f"{asked.instruction}\n{asked.response}")):
            raise Undecidable(f"the texts hold {printable(token)}, a chat template's token; take it out")
        if edit and not (asked.instruction.strip() and asked.response.strip()):
            raise Undecidable("an edited row needs an instruction and a response")
        if edit and max(len(asked.instruction), len(asked.response)) > _LONGEST:
            raise Undecidable(f"an edited text has at most {_LONGEST:,} characters")
        made = self._last_about(asked.candidate)
        if verdict is HumanVerdict.UNDO and not any(decision.reviewer == reviewer for decision in made):
            raise Undecidable(f"{reviewer} has decided nothing about it")
        texts = (asked.instruction, asked.response) if edit else ("", "")
        decision = HumanDecision(reviewer, verdict, time.time(), subject, *texts)
        self._log.add(asked.candidate, decision)
        self.read_decisions()
        return decision


def _why_closed(state: str) -> str:
    """Return why a candidate of a state can never be a row; empty where it can."""
    return f"a {state} candidate is no row; skip it" if state in (State.FAILED, State.CONTAMINATED) else ""


def _effect(state: str, verdict: str) -> int:
    """Return by how many rows the standing decision changes the dataset."""
    if state == State.ACCEPTED:
        return -1 if verdict == HumanVerdict.DROP else 0
    return 0 if verdict == HumanVerdict.DROP or _why_closed(state) else 1


def _all_skipped(made: Sequence[HumanDecision]) -> bool:
    """Return whether all who looked at a candidate's texts skipped it."""
    return bool(made) and all(decision.verdict is HumanVerdict.SKIP for decision in made)


def _edit_in_force(made: Sequence[HumanDecision]) -> HumanDecision | None:
    """Return the edit whose texts hold: no later keep replaced it, and a drop says nothing about texts."""
    texts = [each for each in made if each.verdict in (HumanVerdict.KEEP, HumanVerdict.EDIT)]
    return texts[-1] if texts and texts[-1].verdict is HumanVerdict.EDIT else None


def _texts(edit: HumanDecision) -> dict[str, str]:
    return {"instruction": edit.instruction, "response": edit.response}


def _same_text(one: str, other: str) -> bool:
    """Return whether two texts differ at most in line ends, which a browser's text field changes."""
    one, other = (text.replace("\r\n", "\n").replace("\r", "\n") for text in (one, other))
    return one == other


def _decision_json(decision: HumanDecision) -> dict[str, Any]:
    return {name: printable(v) if isinstance(v, str) else v for name, v in asdict(decision).items()}


def _ledger_of(run: Path) -> Path:
    if not run.is_dir():
        raise DataError(f"{run} is not a folder; name a run folder, such as runs/quickstart/arms/gra")
    refuse_special_files(run)
    arms = sorted(str(arm.parent) for arm in run.glob(f"arms/*/{RESOLVED}"))
    if arms and not (run / "lineage.parquet").is_file():
        raise DataError(f"{run} is an experiment; name one of its arms: {', '.join(arms)}")
    if not (run / RESOLVED).is_file() and not (run / "lineage.parquet").is_file():
        raise DataError(f"{run} is not the run folder of a synthesis (it has no {RESOLVED}); name one")
    ledger = find_ledger(run)
    if ledger is None:
        named = read_resolved_recipe(run).get("ledger")
        where = f"its recipe names {named}, which is not there" if named else "it should lie in the folder"
        raise DataError(f"{run} has no ledger, in which decisions are recorded; {where}; put it back and try again")
    return ledger
