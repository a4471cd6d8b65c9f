"""Write a new version of a dataset with a moved gate, from recorded answers: `gra gate RUN review.accept_mean=7.2`.

Scores, rulings and texts are those of the lineage, so no model is asked. Deduplication is run again, because a row that
leaves may have hidden others. Decisions of people are followed. The run's own dataset stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded, load_recipe
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError, NoRows, RecipeError
from gra.core.files import write_text
from gra.core.hashing import digest, file_digest
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED, VERSIONS
from gra.core.types import AlternativeResponse, Candidate, Ruling, Seed, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.embedder import Embedder
from gra.data.export import export
from gra.data.lineage import REVIEWERS_AGREE, read_candidates
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import load_seeds
from gra.evaluation.suite import suite_items
from gra.models.catalog import resolve
from gra.runs.decisions import Decisions, apply_decisions, read_decisions
from gra.runs.export import finished_run
from gra.synthesis.best_of_n import mark_versions, pick_best, take, taken_number, versions_of
from gra.synthesis.decontamination import decontaminate, open_decontaminator
from gra.synthesis.records import FinishedCandidate
from gra.synthesis.rounds.dedup import RoundDedup
from gra.synthesis.rounds.quotas import Quotas
from gra.synthesis.summary import CandidateCounts, form_facts

MOVABLE = ("review.accept_mean", "review.dispute_std", "review.disputed", "rounds.accept", "rounds.quotas")
NO_RULING = "disputed: no recorded ruling"
_ARMS = ("gra", "self_guide")


@dataclass(frozen=True)
class GateResult:
    """What a version has.

    Attributes:
        rows: rows of the version.
        before: rows of the run's own dataset.
        added: rows that the run's own dataset does not have.
        removed: rows that the version no longer has.
        added_by_people: those of `added` that people kept or edited.
        dropped_by_people: those of `removed` that people dropped; gate, deduplication and limits removed the rest.
        unruled: disputed candidates without a recorded ruling, which stay out.
    """

    folder: Path
    rows: int
    before: int
    added: int
    removed: int
    unruled: int
    added_by_people: int = 0
    dropped_by_people: int = 0

    def sentence(self) -> str:
        """Return the result as a sentence."""
        unruled = f"; {self.unruled:,} disputed candidates have no recorded ruling and stay out" if self.unruled else ""
        added = _change(self.added, "added", self.added_by_people)
        removed = _change(self.removed, "removed", self.dropped_by_people)
        return (
            f"{self.folder}: {self.rows:,} rows ({self.before:,} before; {added}; {removed}), "
            f"without a call to a model{unruled}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return asdict(self) | {"folder": str(self.folder)}


def _change(count: int, word: str, by_people: int) -> str:
    """Return how many rows were added or removed, and by whom where people did some of it."""
    rest = f": {by_people:,} by people, {count - by_people:,} by the gate or a later step" if by_people else ""
    return f"{count:,} {word}{rest}"


def move_gate(run: Path, overrides: Sequence[str], name: str | None = None) -> GateResult:
    """Write `versions/NAME` of a finished run: dataset, lineage, recipe and manifest.

    Args:
        run: the run folder.
        overrides: `key.sub=value` texts; only the keys of `MOVABLE`. Without any, decisions of people are followed.
        name: the version's name; default: `v2`, `v3` and so on.

    Raises:
        RecipeError: a key is another one, or there is such a version already.
        DataError: the folder is no finished run with a gate, or its seeds have changed.
        ModelUnavailable: the embedder of deduplication cannot be had.
        NoRows: no row passes.
    """
    facts = finished_run(run)
    loaded = _load(run, overrides, facts)
    folder = _folder(run, name)
    candidates, decisions = read_candidates(run / "lineage.parquet"), read_decisions(run)
    passed = _regate(candidates, loaded, decisions)
    final = asyncio.run(_finish(passed, loaded, overrides, _seeds(loaded, facts), decisions))
    before = {c.id for c in candidates if c.state is State.ACCEPTED}
    after = {c.id for c in final if c.state is State.ACCEPTED}
    if not after:
        raise NoRows(f"{run}: no candidate passes this gate; nothing was written")
    _write(run, folder, loaded, final, facts, overrides)
    unruled = sum(c.rejected_at is RejectedAt.DISPUTE and bool(c.adjudicator) and c.ruling is None for c in final)
    decided = {c.id: c.decisions[-1].verdict is not HumanVerdict.DROP for c in final if c.decisions}
    took, dropped = ({name for name, taken in decided.items() if taken is wanted} for wanted in (True, False))
    return GateResult(
        folder, len(after), len(before), len(after - before), len(before - after), unruled,
        added_by_people=len(after - before & took), dropped_by_people=len((before - after) & dropped),
    )  # fmt: skip


def _load(run: Path, overrides: Sequence[str], facts: Mapping[str, Any]) -> Loaded[SynthesisRecipe]:
    keys = [text.partition("=")[0].strip() for text in overrides]
    if foreign := [key for key in keys if key not in MOVABLE]:
        raise RecipeError(
            f"`{foreign[0]}` cannot be changed without asking models again; `gra gate` changes {', '.join(MOVABLE)}"
        )
    if "version" in facts:
        raise DataError(f"{run} is a version itself; name the run it was made of")
    loaded = load_recipe(run / RESOLVED, SynthesisRecipe, overrides)
    if loaded.recipe.arm not in _ARMS:
        raise DataError(f"{run} is of the arm `{loaded.recipe.arm}`; only {' and '.join(_ARMS)} have a gate to move")
    return loaded


def _folder(run: Path, name: str | None) -> Path:
    if name is not None:
        if Path(name).name != name or name.startswith("."):
            raise RecipeError(f"`{name}` cannot be the name of a folder; give the version a plain name")
        if (run / VERSIONS / name).exists():
            raise RecipeError(f"{run / VERSIONS / name} is there already; give the version another name")
        return run / VERSIONS / name
    number = 2
    while (run / VERSIONS / f"v{number}").exists():
        number += 1
    return run / VERSIONS / f"v{number}"


def _seeds(loaded: Loaded[SynthesisRecipe], facts: Mapping[str, Any]) -> list[Seed]:
    recipe = loaded.recipe
    file = find_seeds(recipe.seeds, loaded.path)
    if file_digest(file) != facts.get("seeds_sha256"):
        raise DataError(f"{file} is not the seed file that the run was made from; put that one back")
    return list(load_seeds(file, recipe.domains, recipe.seeds, seed=recipe.seed).rows)


def _regate(candidates: Sequence[Candidate], loaded: Loaded[SynthesisRecipe], decisions: Decisions) -> list[Candidate]:
    """Return the candidates in their states after the gate and what people dropped, before deduplication."""
    return [_dropped(_decide(candidate, loaded.recipe.review), decisions) for candidate in candidates]


def _dropped(candidate: Candidate, decisions: Decisions) -> Candidate:
    decided = apply_decisions(candidate, decisions)
    return decided if decided.rejected_at is RejectedAt.PERSON else candidate


def _decide(candidate: Candidate, review: ReviewConfig) -> Candidate:
    """Return a candidate as the moved gate decides it, with the best of its responses."""
    if candidate.mean is None:
        # It passed, without reviewers; another response can be one whose form was repaired.
        if candidate.state in (State.DUPLICATE, State.SURPLUS, State.CONTAMINATED):
            return _accepted(replace(candidate, neighbour="", similarity=None, contamination=None), "no reviewers")
        if not candidate.alternatives:
            return candidate
    taken, versions = taken_number(candidate), versions_of(candidate)
    responses = {taken: _gate(replace(candidate, alternatives=()), review)}
    for other in candidate.alternatives:
        responses[other.number] = _gate(_with_response(candidate, other), review)
    ordered = [responses[number] for number in sorted(responses)]
    compared = {other.number: other.preferred for other in candidate.alternatives if other.preferred is not None}
    if compared and responses[taken].state is State.ACCEPTED:  # comparisons decided, and they are recorded
        return mark_versions(take(ordered, taken, compared), versions)
    return mark_versions(pick_best(ordered), versions)


def _with_response(candidate: Candidate, other: AlternativeResponse) -> Candidate:
    """Return the candidate with another of its responses; the verifiers' verdicts on that one were not kept."""
    state = State.FAILED if other.rejected_at is None else State.REJECTED
    return replace(
        candidate, state=state, reason=other.reason, rejected_at=other.rejected_at, response=other.response,
        reviews=other.reviews, mean=other.mean, std=other.std, ruling=other.ruling, disputed=other.ruling is not None,
        alternatives=(), verifications=(), thinking="", contamination=None, neighbour="", similarity=None,
    )  # fmt: skip


def _gate(candidate: Candidate, review: ReviewConfig) -> Candidate:
    mean, std = candidate.mean, candidate.std
    if mean is None or candidate.state is State.FAILED:  # what was rejected before the reviews stays so
        return candidate
    # A synthesis asks for a ruling only in a dispute.
    open_again = replace(candidate, neighbour="", similarity=None, disputed=False, ruling=None)
    if mean < review.accept_mean:
        return _rejected(open_again, RejectedAt.MEAN_SCORE, "response: mean score too low")
    if (std or 0.0) <= review.dispute_std:
        return _accepted(open_again, REVIEWERS_AGREE)
    return _resolve(replace(open_again, disputed=True), candidate.ruling, review)


def _resolve(candidate: Candidate, ruling: Ruling | None, review: ReviewConfig) -> Candidate:
    if ruling is not None:
        kept = ruling.score >= review.accept_mean
        ruled = replace(candidate, ruling=replace(ruling, kept=kept))
        if kept:
            return _accepted(ruled, "adjudicator kept it")
        return _rejected(ruled, RejectedAt.ADJUDICATOR, "adjudicator rejected it")
    if candidate.adjudicator:
        return _rejected(candidate, RejectedAt.DISPUTE, NO_RULING)
    if review.disputed == "accept":
        return _accepted(candidate, "disputed: accepted without an adjudicator")
    return _rejected(candidate, RejectedAt.DISPUTE, "disputed: rejected without an adjudicator")


def _accepted(candidate: Candidate, reason: str) -> Candidate:
    return replace(candidate, state=State.ACCEPTED, rejected_at=None, reason=reason)


def _rejected(candidate: Candidate, step: RejectedAt, reason: str) -> Candidate:
    return replace(candidate, state=State.REJECTED, rejected_at=step, reason=reason, contamination=None)


async def _finish(
    candidates: Sequence[Candidate],
    loaded: Loaded[SynthesisRecipe],
    overrides: Sequence[str],
    seeds: Sequence[Seed],
    decisions: Decisions,
) -> list[Candidate]:
    """Search for test items, deduplicate round by round, and follow what people kept and edited."""
    recipe, limited = loaded.recipe, any(key.startswith("rounds.") for key in overrides)
    search = open_decontaminator(loaded, suite_items)
    checked = await decontaminate(search, candidates)
    embedder = Embedder(resolve(recipe.dedup.embedder, accept_licenses=recipe.accept_licenses).path)
    pool, found = list(seeds), list[Candidate]()
    for number in sorted({candidate.round for candidate in checked}):
        of_round = [candidate for candidate in checked if candidate.round == number]
        if not limited:  # every recorded answer is paid for, so the round's limit on rows does not hold
            rounds = recipe.rounds.model_copy(update={"accept": max(1, len(of_round)), "quotas": None})
            recipe = recipe.model_copy(update={"rounds": rounds})
        dedup = RoundDedup(recipe, pool, embedder, loaded.path.parent, Quotas(recipe, number))
        dedup.passed += [
            FinishedCandidate(c.id, c.index, c.domain, c.state, 10.0 if c.mean is None else c.mean,
                              dedup.text(c.instruction, c.response))
            for c in of_round if c.state is State.ACCEPTED
        ]  # fmt: skip
        decided, _ = await dedup.dispositions(max(c.index for c in of_round) + 1)
        for candidate in of_round:
            if (made := decided.get(candidate.id)) is not None:
                candidate = replace(
                    candidate, state=made.state, reason=made.reason or candidate.reason, neighbour=made.neighbour,
                    similarity=made.similarity, rejected_at=made.rejected_at,
                )  # fmt: skip
            decided_by_people = apply_decisions(candidate, decisions)
            if decided_by_people is not candidate:  # kept against the gate, or with other texts: not searched yet
                [decided_by_people] = await decontaminate(search, [decided_by_people])
            found.append(decided_by_people)
        pool += [
            Seed(c.id, c.domain, c.instruction, c.response)
            for c in found
            if c.round == number and c.state is State.ACCEPTED
        ]
    return found


def _write(
    run: Path,
    folder: Path,
    loaded: Loaded[SynthesisRecipe],
    candidates: Sequence[Candidate],
    facts: Mapping[str, Any],
    overrides: Sequence[str],
) -> None:
    counts = CandidateCounts(loaded.recipe)
    for candidate in candidates:
        counts.add(candidate)
    version = {"of": str(file_digest(run / "lineage.parquet")), "changes": list(overrides)}
    kept = {key: value for key, value in facts.items() if key not in ("files", "environment", "written", "unreviewed")}
    decisions = [[c.id, decision.reviewer, decision.written] for c in candidates for decision in c.decisions]
    content = {
        **kept,
        **counts.facts(),
        **({"asked_again": counts.asked_again()} if "asked_again" in kept else {}),
        **({"repaired": counts.repaired()} if "repaired" in kept else {}),
        "fingerprint": digest([facts.get("fingerprint"), version, decisions]),
        "version": {**version, "decisions": len(decisions)},
    }
    target = RunFolder(folder).create()
    with target.lock():
        write_text(target / RESOLVED, loaded.show() + "\n")
        files = export(folder, candidates, _card(content, loaded.recipe))
        target.record("synthesis", content, [*files, target / RESOLVED])


def _card(content: Mapping[str, Any], recipe: SynthesisRecipe) -> dict[str, Any]:
    """Return what the dataset card shows."""
    models = {model["name"]: model for model in content.get("models", {}).values()}
    members = content.get("members", {})
    return {
        **{key: content[key] for key in ("committee",) if key in content},
        "name": f"{content['name']}, another version",
        "arm": content["arm"],
        "states": content["states"],
        "models": [
            {"member": member, "name": facts["model"], "identity": models[facts["model"]]["identity"],
             "licence": models[facts["model"]]["licence"]}
            for member, facts in members.items() if facts["model"] in models
        ],
        "shared_weights": content.get("shared_weights", {}),
        "seeds": recipe.seeds.source,
        **form_facts(recipe, content),
        "reviewers": [
            {"member": name, "ask": members[name]["ask"], "auc": found["auc"]}
            for name, found in content.get("reviewers", {}).items()
        ],
        "committee_auc": content.get("committee_auc"),
        "programs": content.get("programs", {}),
        "prompts": content.get("prompts", {}),
    }  # fmt: skip
