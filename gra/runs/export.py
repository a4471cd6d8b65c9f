"""Export rows of a run in a form of another tool: `gra export runs/quickstart/arms/gra --format sharegpt`.

Rows come from the lineage, so rejected candidates can be exported too. What people decided is applied first. The
licenses of the models that wrote the rows come along: in `README.md` of the export, and row by row in `origin.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra.config.problems import did_you_mean
from gra.core.errors import DataError, NoRows, RecipeError
from gra.core.files import refuse_special_files
from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import read_resolved_recipe
from gra.core.text.characters import well_formed
from gra.core.types import Candidate, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.export import worse_responses
from gra.data.formats.forms import FORMS
from gra.data.formats.rows import ExportPair, ExportRow
from gra.data.formats.write import ORIGIN, write_form
from gra.data.lineage import iter_candidates
from gra.runs.decisions import apply_decisions, read_decisions

EXPORTS = "exports"


@dataclass(frozen=True)
class Selection:
    """Which candidates an export takes.

    Attributes:
        states: final states.
        min_score: lowest mean score (0-10); None for any, and for candidates without a score.
        reviewed: only candidates that a person kept or edited.
        system: a system message for every row; empty for none.
    """

    states: tuple[State, ...] = (State.ACCEPTED,)
    min_score: float | None = None
    reviewed: bool = False
    system: str = ""

    def why_not(self, candidate: Candidate) -> str | None:
        """Return why a candidate is left out; None for a row of the export."""
        if candidate.state not in self.states:
            return "dropped by people" if candidate.rejected_at is RejectedAt.PERSON else f"state {candidate.state}"
        if not candidate.instruction or not candidate.response:
            return "without instruction or response"
        if self.min_score is not None and candidate.mean is None:
            return "without a score"
        if self.min_score is not None and candidate.mean is not None and candidate.mean < self.min_score:
            return f"score below {self.min_score:g}"
        if self.reviewed and not any(d.verdict is not HumanVerdict.DROP for d in candidate.decisions[-1:]):
            return "not kept or edited by a person"
        return None


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        files: samples by file.
        left_out: candidates that are no rows, by the reason.
    """

    folder: Path
    files: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """Return the result as a sentence."""
        written = ", ".join(f"{name} with {count:,}" for name, count in self.files.items())
        reasons = _counted(self.left_out)
        return f"{self.folder}: {written}, read back and the same" + (f"; left out: {reasons}" if reasons else "")

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {"folder": str(self.folder), "files": self.files, "left_out": self.left_out}


def export_run(run: Path, form: str, output: Path | None = None, selection: Selection | None = None) -> ExportResult:
    """Write rows of a finished synthesis run in a form of another tool, and read them back.

    Args:
        run: the run folder.
        form: a key of `gra.data.formats.forms.FORMS`.
        output: the folder of the export; default: `exports/FORM` in the run folder.
        selection: which candidates are rows; default: the accepted ones.

    Raises:
        RecipeError: there is no such form, or the folder holds other files.
        DataError: the folder is no finished synthesis run.
        NoRows: no candidate is selected.
    """
    if form not in FORMS:
        known = ", ".join(FORMS)
        raise RecipeError(f"there is no format `{form}` (known: {known}){did_you_mean(form, list(FORMS))}")
    chosen = selection or Selection()
    facts = finished_run(run)
    authors = _Authors(run, facts)
    rows: list[ExportRow] = []
    pairs: list[ExportPair] = []
    left_out: Counter[str] = Counter()
    decisions = read_decisions(run)
    for candidate in iter_candidates(run / "lineage.parquet"):
        candidate = apply_decisions(candidate, decisions)
        if reason := chosen.why_not(candidate):
            left_out[reason] += 1
            continue
        model, license_ = authors.of(candidate)
        rows.append(_row(candidate, model, license_, chosen.system))
        pairs += _pairs(candidate, chosen.system)
    if not rows:
        found = _counted(left_out) or "it has no candidates"
        raise NoRows(f"{run}: no candidate is a row of this export ({found}); nothing was written")
    folder = output or run / EXPORTS / form
    reasons = dict(left_out.most_common())
    files = write_form(form, folder, rows, pairs, _about(run, form, rows, chosen, authors, facts, reasons))
    return ExportResult(folder, files, reasons)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def finished_run(run: Path) -> dict[str, Any]:
    """Return the manifest's section of a finished synthesis run.

    Raises:
        DataError: the folder is none; the arms of an experiment are named.
    """
    refuse_special_files(run)
    facts = RunFolder(run).manifest().get("synthesis")
    if not facts or not (run / "lineage.parquet").is_file():
        arms = sorted(str(file.parent) for file in run.glob("arms/*/lineage.parquet"))
        hint = f"; it is an experiment, name one of its arms: {', '.join(arms)}" if arms else ""
        raise DataError(f"{run} is not a finished synthesis run{hint}")
    return dict(facts)


def _row(candidate: Candidate, model: str, license_: str, system: str) -> ExportRow:
    return ExportRow(
        id=candidate.id,
        domain=candidate.domain,
        instruction=candidate.instruction,
        response=candidate.response,
        state=candidate.state.value,
        score=candidate.mean,
        model=model,
        license=license_,
        reviewed_by=tuple(f"{d.reviewer} {d.verdict}" for d in candidate.decisions),
        edited=any(d.verdict is HumanVerdict.EDIT for d in candidate.decisions[-1:]),
        system=well_formed(system),
    )


def _pairs(candidate: Candidate, system: str) -> Iterator[ExportPair]:
    for other in worse_responses(candidate):
        yield ExportPair(candidate.id, candidate.instruction, candidate.response, other.response, well_formed(system))


class _Authors:
    """The models that wrote the rows of a run, and their licenses."""

    def __init__(self, run: Path, facts: Mapping[str, Any]) -> None:
        self._members: Mapping[str, Any] = facts.get("members") or {}
        models = {model["name"]: model for model in facts.get("models", {}).values()}
        self._models = models
        self.seeds = str((read_resolved_recipe(run).get("seeds") or {}).get("source", "unknown"))

    def of(self, candidate: Candidate) -> tuple[str, str]:
        """Return the name and the license of the model that wrote a candidate; empty for a copied seed."""
        if not candidate.generator:
            return "", ""
        model = self._members.get(candidate.generator, {}).get("model")
        if model is None and len(self._models) == 1:  # a teacher without a committee
            model = next(iter(self._models))
        return str(model or candidate.generator), self._license(model or "")

    def judges(self) -> Iterator[tuple[str, ...]]:
        """Yield member, model, identity, license and roles of each member that could review or adjudicate."""
        for member, known in self._members.items():
            roles = [role for role in ("reviewer", "adjudicator") if role in known.get("roles", ())]
            model = str(known.get("model", ""))
            if roles:
                yield member, model, self.identity(model), self._license(model), ", ".join(roles)

    def _license(self, model: str) -> str:
        return str(self._models.get(model, {}).get("licence") or "unknown")

    def identity(self, model: str) -> str:
        """Return which weights a model has."""
        return str(self._models.get(model, {}).get("identity") or "unknown")


def _about(
    run: Path,
    form: str,
    rows: Sequence[ExportRow],
    chosen: Selection,
    authors: _Authors,
    facts: Mapping[str, Any],
    left_out: Mapping[str, int],
) -> str:
    judges, columns = list(authors.judges()), ("member", "model", "identity", "license", "judged as")
    wrote = Counter((row.model, row.license) for row in rows)
    lines = [
        f"# {facts.get('name', run.name)} as {form}",
        "",
        f"{len(rows):,} rows of the arm `{facts.get('arm', '')}`, exported by GRA. `{ORIGIN}` says of each "
        "row, in the same order, its id, domain, score, state, model and license.",
        "",
        f"- lineage: sha256 `{file_digest(run / 'lineage.parquet')}`",
        f"- states: {', '.join(chosen.states)}",
        f"- decided by people: {sum(bool(row.reviewed_by) for row in rows):,} rows, of them "
        f"{sum(row.edited for row in rows):,} edited",
        f"- left out: {_counted(left_out) or 'none'}",
        f"- lowest score: {'any' if chosen.min_score is None else f'{chosen.min_score:g}'}",
        f"- seeds: `{authors.seeds}`, sha256 `{facts.get('seeds_sha256', 'unknown')}`",
        "",
        "## Models and licenses",
        "",
        *_table(("model", "identity", "license", "rows"), _model_rows(wrote, authors)),
        "",
        "Rows inherit the conditions of the models that wrote them and of the seeds. A run does not record the license "
        "of its seeds: look it up where they come from.",
        "",
        *(["### Members that reviewed", "", *_table(columns, judges), ""] if judges else []),
        "## Domains",
        "",
        *_table(("domain", "rows"), Counter(row.domain for row in rows).most_common()),
    ]
    return well_formed("\n".join(lines) + "\n")


def _model_rows(wrote: Mapping[tuple[str, str], int], authors: _Authors) -> Iterator[tuple[object, ...]]:
    for (model, license_), count in wrote.items():
        if model:
            yield model, authors.identity(model), license_, count
        else:
            yield "none: copied seeds", "", "of the seeds", count


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(' '.join(str(cell).split()).replace('|', '/') for cell in cells)} |"
