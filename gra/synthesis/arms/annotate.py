"""The `annotate` arm: members label the seeds' texts, and their votes decide.

The source is LLMs as Data Annotators (arXiv 2504.15022), which has one annotator.

1. A share of the labeled seeds is the store; the other seeds are the texts.
2. Each member labels control texts of the store, which measures it, and then every text. Its prompt shows labeled texts
   of the store, the nearest by embedding or some at random.
3. Votes give each label a probability. An adjudicator decides labels in doubt.
4. Each text becomes a row: the request for its labels, and the labels as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gra.config.arms import NO_TYPE, AnnotateConfig
from gra.core.hashing import digest
from gra.core.text.spans import LabelSpan, without_overlaps
from gra.core.types import Candidate, Review, Ruling, Seed, State
from gra.core.vocabulary import FailureCause, RejectedAt, StopReason
from gra.stats.annotation import micro_f1
from gra.synthesis.annotation.annotator import ask_text, read_labels, write_labels
from gra.synthesis.annotation.asking import (
    AskedText,
    LabelWork,
    SettledText,
    ask_members,
    choose_examples,
    plan_work,
    settle_doubts,
)
from gra.synthesis.annotation.votes import count_votes, decide_labels, gold_facts
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.call_names import answer_id, control_item_name
from gra.synthesis.candidate import fail, reject
from gra.synthesis.committee.calls import MissingAnswers
from gra.synthesis.committee.members import Member
from gra.synthesis.context import SynthesisContext
from gra.synthesis.decontamination import decontaminate
from gra.synthesis.from_seeds import copy_seed, one_per_seed, reject_special_tokens
from gra.synthesis.records import CandidateSequence
from gra.synthesis.setup import prepared_committee


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Prepare the committee and label the texts."""
    async with prepared_committee(context, seeds) as committee:
        if committee is None:
            return ArmCandidates([])
        work = plan_work(context.recipe, committee.seeds)
        work = replace(work, texts=work.texts[:first])
        made, facts = await _label(context, work, committee.settings.members, committee.settings.fingerprint)
        return ArmCandidates(made, await committee.facts() | {"annotation": facts})


async def _label(
    context: SynthesisContext, work: LabelWork, members: Mapping[str, Member], fingerprint: str
) -> tuple[CandidateSequence, dict[str, Any]]:
    """Label the texts of an arm.

    Raises:
        MissingAnswers: when infrastructure left control texts without labels.
    """
    recipe, config = context.recipe, context.recipe.annotate
    assert config is not None
    annotators = [member for member in members.values() if "generator" in member.roles]
    names = [member.name for member in annotators]
    examples, copies = await choose_examples(recipe, work)
    if copies:
        context.view.note(f"! {copies} of {len(work.texts)} texts are near copies of a text in the store")
    named = [(control_item_name("answer", text.id), text.id, text.text) for text in work.controls]
    controls = await ask_members(context, annotators, named, work, examples)
    if gaps := [text.gap for text in controls if text.gap is not None]:
        raise MissingAnswers(len(gaps), "control texts", str(gaps[-1]))
    texts: list[AskedText] = []
    if len(controls) == len(work.controls):
        named = [(answer_id(recipe.arm, seed.id), seed.id, seed.instruction) for seed in work.texts]
        texts = await ask_members(context, annotators, named, work, examples)
    measured_on = [text.annotated for text in controls]
    answered = [text.annotated for text in texts if text.gap is None]
    count = count_votes(config, names, measured_on, answered)
    decided = [(text, decide_labels(count.probabilities.get(text.annotated.id, {}), config)) for text in texts]
    settled = {t.asked.annotated.id: t for t in await settle_doubts(context, members, annotators, decided)}
    if left := len(work.texts) - len(settled):
        context.stopped.append(StopReason.BUDGET)
        context.view.note(f"! the budget is spent: {left} of {len(work.texts)} texts were not begun")

    async def one(name: str, _: int, seed: Seed) -> Candidate:
        begun = copy_seed(recipe, name, places[seed.id], seed, "")
        begun = replace(begun, instruction=ask_text(seed.instruction, (), config), response="", reviewers=tuple(names))
        text = settled[seed.id]
        ended = reject_special_tokens(context, _decide(begun, text, config, recipe.review.disputed))
        recorder = text.asked.recorder
        ended = replace(ended, usage=dict(recorder.usage), calls=tuple(sorted(recorder.calls)))
        return (await decontaminate(context.job.decontaminator, [ended]))[0]

    places = {seed.id: place for place, seed in enumerate(work.texts)}
    scope = digest([fingerprint, count.depends_on])
    ready = [seed for seed in work.texts if seed.id in settled]
    made = await one_per_seed(context, ready, recipe.arm, scope, context.in_flight, one, admitted=True)
    final = {c.parents[0]: c for c in made if c.state is State.ACCEPTED}
    labels = {t.id: read_labels(t.text, final[t.id].response, config) for t in answered if t.id in final}
    gold = gold_facts(answered, labels, measured_on, names, config)
    if gold:
        best = gold["members"][gold["best_member"]]["f1"]
        context.view.note(
            f"  labels of {gold['texts']} texts against gold, F1: committee {gold['committee']['f1']:.3f}, "
            f"{gold['best_member']} alone {best:.3f}, majority {gold['majority']['f1']:.3f}"
        )
    facts = {
        "kind": config.kind,
        "types": config.types,
        "store": len(work.store),
        "controls": len(controls),
        "texts": len(work.texts),
        "near_copies": copies,
        "votes": {"way": config.votes, **count.facts},
        "unusable": {n: sum(text.found[n] is None for text in (*measured_on, *answered)) for n in names},
        "not_in_text": {
            n: sum(given.missing for text in (*measured_on, *answered) if (given := text.found[n])) for n in names
        },
        "doubtful": sum(len(text.verdict.doubtful) for text in settled.values()),
        "adjudicated": sum(len(text.chosen) for text in settled.values()),
        "gold": gold,
    }
    return made, facts


def _decide(begun: Candidate, text: SettledText, config: AnnotateConfig, disputed: str) -> Candidate:
    """Return a text's row with its labels, or why it has none; each member's labels stand as its review."""
    if (gap := text.asked.gap or text.gap) is not None:
        return fail(begun, gap)
    given = {name: found for name, found in text.asked.annotated.found.items() if found is not None}
    verdict, source = text.verdict, text.asked.annotated.text
    if not given:
        return replace(begun, state=State.FAILED, reason="no member gave usable labels", failed_by=FailureCause.ANSWER)
    chosen = {LabelSpan(span.start, span.end, kind) for span, kind in text.chosen.items() if kind is not None}
    if disputed != "adjudicate":
        chosen = {span for span, p in verdict.doubtful.items() if config.kind == "label" or p >= 0.5}
    spans = without_overlaps([*verdict.sure, *chosen], dict.fromkeys(verdict.sure, 1.0))
    labels = write_labels(source, spans, config)
    reviews = []
    for name, found in given.items():
        agrees = 10 * micro_f1([spans], [found.spans]).f1
        reviews.append(Review(name, {}, agrees, agrees, write_labels(source, found.spans, config)))
    begun = replace(
        begun, reviews=tuple(reviews), mean=10 * verdict.certainty, disputed=bool(verdict.doubtful), response=labels
    )
    if not verdict.doubtful:
        return replace(begun, state=State.ACCEPTED, reason="annotators agree")
    if disputed == "reject":
        return reject(begun, RejectedAt.DISPUTE, "disputed: rejected without an adjudicator")
    if disputed == "accept":
        return replace(begun, state=State.ACCEPTED, reason="disputed: accepted without an adjudicator")
    said = "; ".join(f"{source[s.start : s.end]!r} is {kind or NO_TYPE}" for s, kind in text.chosen.items())
    ruling = Ruling(text.adjudicator, {}, 10 * verdict.certainty, said, True)
    decided = replace(begun, adjudicator=text.adjudicator, ruling=ruling)
    return replace(decided, state=State.ACCEPTED, reason="adjudicator decided labels in doubt")
