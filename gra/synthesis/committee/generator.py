"""The generator's three steps: new keywords, an instruction from them, a response (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra.core.types import Seed
from gra.engines.types import Json, Text
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import hint, render

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


async def new_keywords(
    recorder: CallRecorder, generator: Member, domain: str, parents: Sequence[Seed], *, drawn: int = 0
) -> tuple[str, ...]:
    """A keyword triple that the parents inspire and do not contain; every number `drawn` is a draw of its own."""
    prompt = render("keywords", domain=domain, hint=hint(domain), parents=parents)
    answer = await recorder.ask(
        generator.call(prompt, KEYWORDS, role="generator", candidate=recorder.candidate, sample=drawn)
    )
    return tuple(str(word).strip() for word in answer.value["keywords"])


async def write_instruction(
    recorder: CallRecorder, generator: Member, domain: str, keywords: Sequence[str], parents: Sequence[Seed], show: str
) -> str:
    """An instruction about the keywords, in the manner of the parents' `show`: "summaries" or "instructions"."""
    prompt = render("instruction", domain=domain, hint=hint(domain), keywords=keywords, parents=parents, show=show)
    answer = await recorder.ask(generator.call(prompt, INSTRUCTION, role="generator", candidate=recorder.candidate))
    return str(answer.value["exercise"]).strip()


async def write_response(
    recorder: CallRecorder, author: Member, instruction: str, role: str = "generator", *, draft: int = 0
) -> str:
    """The author's answer to an instruction; every draft is drawn anew."""
    prompt = render("response", instruction=instruction)
    answer = await recorder.ask(author.call(prompt, Text(), role=role, candidate=recorder.candidate, sample=draft))
    return str(answer.value)


async def rewrite_response(recorder: CallRecorder, author: Member, seed: Seed, *, draft: int = 0) -> str:
    """The author's better version of a seed's own response; every draft is drawn anew."""
    prompt = render("rewrite", instruction=seed.instruction, response=seed.response)
    answer = await recorder.ask(
        author.call(prompt, Text(), role="generator", candidate=recorder.candidate, sample=draft)
    )
    return str(answer.value)


async def name_domain(recorder: CallRecorder, member: Member, sample: Seed, domains: Sequence[str]) -> Seed:
    """The sample under the domain it fits best, for seeds that come without one."""
    prompt = render("domain", instruction=sample.instruction, domains={domain: hint(domain) for domain in domains})
    choice = {"type": "string", "enum": list(domains)}
    schema = Json({"type": "object", "properties": {"domain": choice}, "required": ["domain"]})
    answer = await recorder.ask(member.call(prompt, schema, role="enricher", candidate=recorder.candidate))
    return replace(sample, domain=str(answer.value["domain"]))


async def enrich(recorder: CallRecorder, member: Member, sample: Seed) -> Seed:
    """The sample with keywords and summary, as a pool item must have (paper section 3.4)."""
    prompt = render("enrich", domain=sample.domain, instruction=sample.instruction, response=sample.response)
    answer = await recorder.ask(member.call(prompt, METADATA, role="enricher", candidate=recorder.candidate))
    keywords = sample.keywords or tuple(str(word).strip() for word in answer.value["keywords"])
    summary = sample.summary or str(answer.value["summary"]).strip()
    return replace(sample, keywords=keywords, summary=summary)
