"""Write task data by SELF-GUIDE (Zhao et al. 2024, arXiv 2407.12874): one model, worked examples, and filters.

An input is written from the examples' inputs, with some earlier ones as inputs of low quality. The output is the one
that most draws agree on. Filters drop what is empty, has words around it, or has an unusual length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from gra.config.arms import SelfGuideConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.processes.concurrency import together
from gra.core.rng import rng
from gra.core.types import Candidate, Seed
from gra.core.vocabulary import CallPurpose, FailureCause, WorkKind
from gra.engines.types import Text
from gra.synthesis.call_names import read_name
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.generator import Response
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import hint, render

_MOST_EARLIER = 10
# Words that small models put around what was asked for.
_NOISE = re.compile(
    r"\bhere (?:is|are) (?:an?|the|one|another|your|some)\b.*:|\b(?:sure|certainly|of course|absolutely)[,!]"
    r"|\bgreat question\b|\bas an ai\b|\bi(?:'d| would) be happy to\b|\bi hope this helps\b|\blet me know if\b"
    r"|</?(?:in|out)put>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GuidedInput:
    """An input, the worked examples and earlier rows that it was written from, and why a filter drops it, or ""."""

    text: str
    examples: Sequence[Seed]
    earlier: Sequence[Seed]
    fault: str

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of what it was written from."""
        return tuple(row.id for row in (*self.examples, *self.earlier))


def choose_examples(
    pool: Sequence[Seed], config: SelfGuideConfig, seed: int, domain: str, round_: int, index: int
) -> tuple[list[Seed], list[Seed]]:
    """Return the worked examples of a domain, the same for all candidates, and 1 to 10 rows of earlier rounds.

    Args:
        pool: seeds and accepted rows of earlier rounds.
        config: the recipe's section.
        seed: the run's.
        domain: the candidate's.
        round_: the round's number.
        index: the candidate's index within the round.
    """
    seeds: list[Seed] = []
    made: list[Seed] = []
    for row in pool:
        name = read_name(row.id)
        (made if name is not None and name.kind is WorkKind.CANDIDATE else seeds).append(row)
    examples = rng(seed, "self_guide", domain).sample(seeds, min(config.examples, len(seeds)))
    random = rng(seed, round_, index, "self_guide")
    return examples, random.sample(made, min(len(made), random.randint(1, _MOST_EARLIER)))


async def write_input(
    recorder: CallRecorder, writer: Member, pool: Sequence[Seed], recipe: SynthesisRecipe, begun: Candidate
) -> GuidedInput:
    """Write one input of a candidate's domain, and filter it.

    Args:
        recorder: asks on behalf of the candidate.
        writer: the model that writes everything.
        pool: seeds of the domain, and accepted rows of earlier rounds.
        recipe: the arm's recipe, with `self_guide`.
        begun: the candidate as it begins.
    """
    config, domain = recipe.self_guide, begun.domain
    assert config is not None
    examples, earlier = choose_examples(pool, config, recipe.seed, domain, begun.round, begun.index)
    prompt = render("self_guide/input", domain=domain, hint=hint(domain), examples=examples, earlier=earlier)
    # Prompts of a first round are alike, so the number of the draw makes the inputs differ.
    drawn = (begun.round - 1) * recipe.rounds.max_candidates + begun.index
    call = writer.call(prompt, Text(), role=CallPurpose.GENERATOR, candidate=recorder.candidate, sample=drawn)
    text = unwrapped(str((await recorder.ask(call)).value))
    bounds = length_bounds([example.instruction for example in examples]) if config.input_length else None
    return GuidedInput(text, examples, earlier, fault(text, bounds))


async def write_output(
    recorder: CallRecorder, writer: Member, domain: str, written: GuidedInput, config: SelfGuideConfig
) -> Response | None:
    """Draw the output of an input several times, and return the one that most draws agree on.

    Returns:
        None where the filters leave none, or too small a share of the draws agrees.

    Raises:
        Unanswered: when infrastructure failed.
    """
    shown = {"domain": domain, "hint": hint(domain), "examples": written.examples, "instruction": written.text}
    prompt = render("self_guide/output", **shown)

    async def one(place: int) -> str:
        call = writer.call(prompt, Text(), role=CallPurpose.GENERATOR, candidate=recorder.candidate, sample=place)
        call = replace(call, sampling=replace(call.sampling, temperature=config.output_temperature))
        try:
            return unwrapped(str((await recorder.ask(call)).value))
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                raise
            return ""

    drawn = await together(*map(one, range(config.outputs)))
    bounds = length_bounds([example.response for example in written.examples]) if config.output_length else None
    return agreed([text for text in drawn if not fault(text, bounds)], config.outputs, config.least_share)


def unwrapped(text: str) -> str:
    """Return a text without the marks of the prompt around it."""
    return re.sub(r"^\s*<(?:in|out)put>|</(?:in|out)put>\s*$", "", text.strip()).strip()


def length_bounds(examples: Sequence[str]) -> tuple[float, float]:
    """Return the smallest and largest length in characters: within two standard deviations of the examples' mean.

    Three examples may be of one length, so at least half of the mean is allowed.
    """
    lengths = [len(text) for text in examples]
    mean = fmean(lengths)
    allowed = max(2 * pstdev(lengths), 0.5 * mean)
    return mean - allowed, mean + allowed


def fault(text: str, bounds: tuple[float, float] | None) -> str:
    """Return why a filter drops a text, or ""."""
    if not text.strip():
        return "empty"
    if found := _NOISE.search(text):
        return f"words around it: {found[0]!r}"
    if bounds is not None and not bounds[0] <= len(text) <= bounds[1]:
        return f"{len(text)} characters, and the examples have {max(0, bounds[0]):.0f} to {bounds[1]:.0f}"
    return ""


def agreed(outputs: Sequence[str], drawn: int, least: float) -> Response | None:
    """Return the most frequent output, the shortest of equals; None where too small a share of the draws gave it.

    Args:
        outputs: the draws that the filters left.
        drawn: how many were drawn.
        least: the least share.
    """
    counts = Counter(outputs)
    if not counts:
        return None
    best = min(counts, key=lambda text: (-counts[text], len(text), text))
    return Response(best) if counts[best] >= least * drawn else None
