"""Plan who labels which text with which examples, and ask them.

Every call goes through the broker, and the caps of the recipe hold. So a stopped run goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gra.config.arms import AnnotateConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted, DataError
from gra.core.hashing import digest
from gra.core.processes.concurrency import in_turn, together
from gra.core.rng import rng
from gra.core.text.spans import AlignedSpans, LabelSpan
from gra.core.types import Seed
from gra.core.vocabulary import FailureCause
from gra.data.embedder import Embedder, similarities
from gra.models.catalog import resolve
from gra.synthesis.annotation.annotator import LabeledText, annotate_text, decide_type, read_labeled
from gra.synthesis.annotation.votes import AnnotatedText, LabelVerdict
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.context import SynthesisContext

T = TypeVar("T")
U = TypeVar("U")
Examples = Mapping[str, Sequence[LabeledText]]  # by the id of the text whose prompt shows them


@dataclass(frozen=True)
class LabelWork:
    """What is to be labeled.

    Attributes:
        store: labeled texts that serve as examples.
        controls: labeled texts of the store that measure the members.
        texts: the seeds that get labels.
        gold: labels of people by text id, where they are known; no prompt shows those of `texts`.
    """

    store: tuple[LabeledText, ...]
    controls: tuple[LabeledText, ...]
    texts: tuple[Seed, ...]
    gold: Mapping[str, tuple[LabelSpan, ...]]


def plan_work(recipe: SynthesisRecipe, seeds: Sequence[Seed]) -> LabelWork:
    """Split the seeds into store and texts, by the recipe's seed.

    Raises:
        DataError: when labels cannot be read, or there is no text or no example.
    """
    config = recipe.annotate
    assert config is not None
    labeled = {seed.id: found for seed in seeds if (found := read_labeled(seed, config)) is not None}
    drawn = sorted(labeled, key=lambda name: digest([recipe.seed, "store", name]))[: round(config.store * len(labeled))]
    store = tuple(labeled[name] for name in drawn)
    texts = tuple(seed for seed in seeds if seed.id not in set(drawn))
    needs = "`annotate.votes: measured`" if config.votes == "measured" else f"`annotate.examples: {config.examples}`"
    if len(store) < 2 and (config.votes == "measured" or config.examples):
        raise DataError(
            f"{needs} needs labeled texts, and the store has {len(store)} of the {len(labeled)} labeled seeds; add "
            "labels, or raise `annotate.store`"
        )
    if not texts:
        raise DataError("no seed is left to be labeled: all are in the store; lower `annotate.store`, or add texts")
    controls = store[: config.control] if config.votes == "measured" else ()
    return LabelWork(store, controls, texts, {name: found.spans for name, found in labeled.items()})


async def choose_examples(recipe: SynthesisRecipe, work: LabelWork) -> tuple[Examples, int]:
    """Choose the examples of every control text and text; the nearest one comes last, and no text is its own example.

    Returns:
        The examples, and how many texts are near copies of a text in the store (`dedup.threshold`).
    """
    config = recipe.annotate
    assert config is not None
    wanted = [(text.id, text.text) for text in work.controls] + [(seed.id, seed.instruction) for seed in work.texts]
    if not config.examples:
        return {name: () for name, _ in wanted}, 0
    if not config.needs_embedder:
        return {name: _drawn(recipe, config, work.store, name) for name, _ in wanted}, 0
    embedder = Embedder(resolve(recipe.dedup.embedder, accept_licenses=recipe.accept_licenses).path)
    stored = [text.text for text in work.store]
    near = await asyncio.to_thread(similarities, embedder, [text for _, text in wanted], stored)
    found: dict[str, Sequence[LabeledText]] = {}
    for (name, _), row in zip(wanted, near, strict=True):
        order = [work.store[place] for place in np.argsort(-row, kind="stable")]
        found[name] = [text for text in order if text.id != name][: config.examples][::-1]
    copies = near[len(work.controls) :].max(axis=1) >= recipe.dedup.threshold
    return found, int(copies.sum())


def _drawn(
    recipe: SynthesisRecipe, config: AnnotateConfig, store: Sequence[LabeledText], name: str
) -> list[LabeledText]:
    others = [text for text in store if text.id != name]
    return rng(recipe.seed, name, "examples").sample(others, min(config.examples, len(others)))


@dataclass(frozen=True)
class AskedText:
    """A text as the members labeled it, and what they used; `gap` says why infrastructure left it unanswered."""

    annotated: AnnotatedText
    recorder: CallRecorder
    gap: Unanswered | None = None


async def ask_members(
    context: SynthesisContext, members: Sequence[Member], texts: Iterable[tuple[str, str, str]], work: LabelWork,
    examples: Examples,
) -> list[AskedText]:  # fmt: skip
    """Have every member label texts.

    Args:
        context: what the arm needs.
        members: the annotators.
        texts: name of the calls, id and text of each.
        work: has the gold labels.
        examples: of each text.

    Returns:
        The texts in their order, without those that the budget leaves out.
    """
    config = context.recipe.annotate
    assert config is not None

    async def one(asked: tuple[str, str, str]) -> AskedText:
        name, identity, text = asked
        recorder = CallRecorder(context.broker, name)

        async def of(member: Member) -> AlignedSpans | None:
            try:
                return await annotate_text(recorder, member, text, examples[identity], config)
            except Unanswered as gap:
                if gap.cause is FailureCause.INFRASTRUCTURE:
                    raise
                return None  # counted in the manifest; the member abstains

        try:
            found = await together(*map(of, members))
        except Unanswered as gap:
            return AskedText(AnnotatedText(identity, text, {}), recorder, gap)
        by_member = {member.name: given for member, given in zip(members, found, strict=True)}
        return AskedText(AnnotatedText(identity, text, by_member, work.gold.get(identity)), recorder)

    asked = list(texts)
    given = await _within_budget(context, asked, one)
    missing = [place for place, text in enumerate(given) if text is not None and text.gap is not None]
    again = await _within_budget(context, [asked[place] for place in missing], one)
    for place, text in zip(missing, again, strict=True):
        given[place] = text
    return [text for text in given if text is not None]


@dataclass(frozen=True)
class SettledText:
    """A text whose doubts are settled: its type or None by place in doubt, who decided, and what had no answer."""

    asked: AskedText
    verdict: LabelVerdict
    chosen: Mapping[LabelSpan, str | None]
    adjudicator: str = ""
    gap: Unanswered | None = None


async def settle_doubts(
    context: SynthesisContext,
    members: Mapping[str, Member],
    annotators: Sequence[Member],
    decided: Sequence[tuple[AskedText, LabelVerdict]],
) -> list[SettledText]:
    """Have an adjudicator decide the labels in doubt; one that is no annotator goes before.

    Returns:
        The texts in their order, without those that the budget leaves out.
    """
    config = context.recipe.annotate
    assert config is not None
    able = [member for member in members.values() if "adjudicator" in member.roles]
    able = [member for member in able if member not in annotators] or able

    async def one(pair: tuple[AskedText, LabelVerdict]) -> SettledText:
        asked, verdict = pair
        settled = SettledText(asked, verdict, {})
        if not verdict.doubtful or context.recipe.review.disputed != "adjudicate":
            return settled
        member = rng(context.recipe.seed, asked.annotated.id, "adjudicator").choice(able)
        settled = replace(settled, adjudicator=member.name)
        text = asked.annotated.text

        async def decide(span: LabelSpan) -> str | None:
            votes = _votes_on(asked.annotated, span)
            return await decide_type(asked.recorder, member, text, span, votes, config)

        try:
            types = await together(*map(decide, verdict.doubtful))
        except Unanswered as gap:
            return replace(settled, gap=gap)
        return replace(settled, chosen=dict(zip(verdict.doubtful, types, strict=True)))

    return [text for text in await _within_budget(context, decided, one) if text is not None]


def _votes_on(text: AnnotatedText, span: LabelSpan) -> list[str]:
    """Return what each annotator said about a place, for the adjudicator's prompt; names could sway it."""
    said = []
    for number, given in enumerate(text.found.values(), 1):
        if given is not None:
            place = (span.start, span.end)
            types = [other.type for other in given.spans if (other.start, other.end) == place]
            said.append(f"annotator {number}: {types[0] if types else 'none'}")
    return said


async def _within_budget(
    context: SynthesisContext, items: Sequence[U], one: Callable[[U], Awaitable[T]]
) -> list[T | None]:
    """Work on items at once; None for those whose calls the budget does not allow. Recorded answers cost nothing."""
    found: list[T | None] = [None] * len(items)

    async def attempt(place: int) -> None:
        with contextlib.suppress(BudgetExhausted):
            found[place] = await one(items[place])

    with context.broker.account.strictly():
        await in_turn(range(len(items)), attempt, context.in_flight)
    return found
