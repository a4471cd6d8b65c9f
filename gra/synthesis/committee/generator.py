"""Generate a sample in the paper's three steps: keywords, an instruction from them, a response (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from gra.core.types import Seed
from gra.core.vocabulary import CallPurpose
from gra.engines.types import Call, Json, Text, Truncated
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import hint, render

Turns = tuple[tuple[str, str], ...]  # (role, content)

_KEYWORD = {"type": "string", "minLength": 2, "maxLength": 40}
_KEYWORDS = {"type": "array", "items": _KEYWORD, "minItems": 3, "maxItems": 3}
KEYWORDS = Json({"type": "object", "properties": {"keywords": _KEYWORDS}, "required": ["keywords"]})
INSTRUCTION = Json(
    {"type": "object", "properties": {"exercise": {"type": "string", "minLength": 12}}, "required": ["exercise"]}
)
METADATA = Json(
    {
        "type": "object",
        "properties": {"keywords": _KEYWORDS, "summary": {"type": "string", "minLength": 10, "maxLength": 160}},
        "required": ["keywords", "summary"],
    }
)

# A shorter answer: fewer words than prompts allow, and few enough for code and for languages with long words.
_SHORT_WORDS, _TOKENS_A_WORD = 40, 3
_EXAMPLE = "examples/instruction"
_LEAST_WORDS = 20  # of the limit by parents: an instruction may ask for more than theirs did


@dataclass(frozen=True, slots=True)
class Response:
    """A response without its author's thinking, and that thinking."""

    text: str
    thinking: str = ""


async def new_keywords(
    recorder: CallRecorder, generator: Member, domain: str, parents: Sequence[Seed], *, drawn: int = 0
) -> tuple[str, ...]:
    """Write three keywords that the parents inspire and do not contain; each number `drawn` is an independent draw."""
    prompt = _render_parents("keywords", parents, domain=domain, hint=hint(domain))
    answer = await recorder.ask(
        generator.call(prompt, KEYWORDS, role=CallPurpose.GENERATOR, candidate=recorder.candidate, sample=drawn)
    )
    return tuple(str(word).strip() for word in answer.value["keywords"])


async def write_instruction(
    recorder: CallRecorder,
    generator: Member,
    domain: str,
    keywords: Sequence[str],
    parents: Sequence[Seed],
    show: str,
    *,
    drawn: int = 0,
) -> str:
    """Write an instruction about the keywords.

    Args:
        recorder: asks on behalf of the candidate.
        generator: the member that writes.
        domain: the candidate's domain.
        keywords: what the instruction is about.
        parents: samples of the domain that serve as examples.
        show: what the generator sees of the parents, `summaries` (the paper), `instructions`, or `examples`: requests
            for the parents' instructions with these as answers.
        drawn: the number of the draw; siblings with the same keywords write instructions of their own.
    """
    ask = partial(generator.call, role=CallPurpose.GENERATOR, candidate=recorder.candidate, sample=drawn)
    if show == "examples":
        asked = [render(_EXAMPLE, keywords=parent.keywords) for parent in parents]
        shown = _turns(asked, [parent.instruction for parent in parents])
        call = ask(render(_EXAMPLE, keywords=keywords), Text())
        return str((await recorder.ask(_after(shown, call))).value).strip()
    prompt = _render_parents("instruction", parents, domain=domain, hint=hint(domain), keywords=keywords, show=show)
    answer = await recorder.ask(ask(prompt, INSTRUCTION))
    return str(answer.value["exercise"]).strip()


def response_words(parents: Sequence[Seed], length: Literal["prompt", "parents", "examples"]) -> int | None:
    """Return how many words a response may have: as many as the longest of the parents, in full tens, and 20 or more.

    Eight characters count as a word where a text has fewer spaces.

    Args:
        parents: the samples that a candidate comes from.
        length: `rounds.response_length`; None is returned unless it is `parents`.
    """
    if length != "parents":
        return None
    longest = max(max(len(parent.response.split()), len(parent.response) // 8) for parent in parents)
    return max(_LEAST_WORDS, -(-longest // 10) * 10)


async def write_response(
    recorder: CallRecorder,
    author: Member,
    instruction: str,
    role: CallPurpose = CallPurpose.GENERATOR,
    *,
    number: int = 0,
    words: int | None = None,
    examples: Sequence[Seed] = (),
) -> Response:
    """Write a response to an instruction; each number is an independent draw.

    Args:
        recorder: asks on behalf of the candidate.
        author: the member that writes.
        instruction: what is answered.
        role: the purpose that the call is recorded with.
        number: of the draw.
        words: how many the response may have; None for the prompt's own number.
        examples: samples that are shown before, as turns of a conversation.

    Raises:
        Unanswered: when there is no answer, or only thinking.
    """
    prompt = (
        render("response", instruction=instruction)
        if words is None
        else render("length/response", instruction=instruction, words=words)
    )
    asked = [render("response", instruction=sample.instruction) for sample in examples]
    shown = _turns(asked, [sample.response for sample in examples])
    return await ask_for_text(recorder, author, prompt, role, number=number, most=words or _SHORT_WORDS, shown=shown)


async def rewrite_response(recorder: CallRecorder, author: Member, seed: Seed, *, number: int = 0) -> Response:
    """Write a better version of a seed's own response; each number is an independent draw.

    Raises:
        Unanswered: when there is no answer, or only thinking.
    """
    prompt = render("rewrite", instruction=seed.instruction, response=seed.response)
    return await ask_for_text(recorder, author, prompt, CallPurpose.GENERATOR, number=number)


async def ask_for_text(
    recorder: CallRecorder,
    author: Member,
    prompt: str,
    role: CallPurpose,
    *,
    number: int = 0,
    most: int = _SHORT_WORDS,
    shown: Turns = (),
) -> Response:
    """Ask a member for a text; each number is an independent draw, and a shorter answer has at most `most` words.

    Turns that are shown come between the system prompt and the question. Where the recorder says so, an answer that was
    cut off is followed by one call for a shorter one.

    Raises:
        Unanswered: when there is no answer, or only thinking.
    """

    async def ask(text: str, purpose: CallPurpose) -> Response:
        call = author.call(text, Text(), role=purpose, candidate=recorder.candidate, sample=number)
        answer = await recorder.ask(_after(shown, call), repeat_cut_off=not recorder.shorten)
        return Response(str(answer.value), answer.completion.thinking)

    try:
        return await ask(prompt, role)
    except Unanswered as gap:
        if not recorder.shorten or not isinstance(gap.outcome, Truncated):
            raise
    words = max(1, min(_SHORT_WORDS, most, author.sampling.max_tokens // _TOKENS_A_WORD))
    return await ask(render("optional/shorter", prompt=prompt, words=words), CallPurpose.SHORTENER)


def _after(shown: Turns, call: Call) -> Call:
    """Return a call with turns before its question."""
    return replace(call, messages=(*call.messages[:-1], *shown, call.messages[-1]))


def _turns(asked: Sequence[str], answers: Sequence[str]) -> Turns:
    turns: list[tuple[str, str]] = []
    for question, answer in zip(asked, answers, strict=True):
        turns += [("user", question), ("assistant", answer)]
    return tuple(turns)


def _render_parents(name: str, parents: Sequence[Seed], **values: Any) -> str:
    """Fill in a prompt that shows parents; the paper's prompts speak of two."""
    return render(name if len(parents) == 2 else f"optional/{name}", parents=parents, **values)


async def name_domain(recorder: CallRecorder, member: Member, sample: Seed, domains: Sequence[str]) -> Seed:
    """Return a seed that has no domain with the one that the member chooses."""
    prompt = render("domain", instruction=sample.instruction, domains={domain: hint(domain) for domain in domains})
    choice = {"type": "string", "enum": list(domains)}
    schema = Json({"type": "object", "properties": {"domain": choice}, "required": ["domain"]})
    call = member.call(prompt, schema, role=CallPurpose.ENRICHER, candidate=recorder.candidate)
    answer = await recorder.ask(call)
    return replace(sample, domain=str(answer.value["domain"]))


async def enrich(recorder: CallRecorder, member: Member, sample: Seed) -> Seed:
    """Return the sample with keywords and a summary, which every parent needs (section 3.4)."""
    prompt = render("enrich", domain=sample.domain, instruction=sample.instruction, response=sample.response)
    call = member.call(prompt, METADATA, role=CallPurpose.ENRICHER, candidate=recorder.candidate)
    answer = await recorder.ask(call)
    keywords = sample.keywords or tuple(str(word).strip() for word in answer.value["keywords"])
    summary = sample.summary or str(answer.value["summary"]).strip()
    return replace(sample, keywords=keywords, summary=summary)
