"""Ask members for the labels of a text, and an adjudicator about labels in doubt.

Labels are spans with types. The label of a whole text is one span over all of it. In prompts, seeds and the dataset
they are JSON: `{"entities": [{"text": "Oslo", "type": "city"}]}` or `{"label": "praise"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gra.config.arms import NO_TYPE, AnnotateConfig
from gra.core.errors import DataError
from gra.core.text.spans import AlignedSpans, LabelSpan, align
from gra.core.types import Seed
from gra.core.vocabulary import CallPurpose
from gra.engines.types import Json
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import render

UNLABELED = "?"  # the response of a seed whose labels are not known
_MOST = 40  # names that one answer may have; small models repeat themselves


@dataclass(frozen=True, slots=True)
class LabeledText:
    """A text with the labels that people gave it, and these labels as the prompt shows them."""

    id: str
    text: str
    spans: tuple[LabelSpan, ...]
    labels: str


def read_labeled(seed: Seed, config: AnnotateConfig) -> LabeledText | None:
    """Return a seed's text with its labels; None where they are not known.

    Raises:
        DataError: when the labels cannot be read, have another type, or do not stand in the text.
    """
    if seed.response.strip() == UNLABELED:
        return None
    form = '{"entities": [{"text": ..., "type": ...}]}' if config.kind == "spans" else '{"label": ...}'
    where = f"the seed `{seed.id}`"
    fix = f"write {form}, or {UNLABELED} where the labels are not known"
    try:
        mentions = _mentions(_parse(seed.response, config), config)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(f"{where}: its response is no labels of `annotate.kind: {config.kind}`; {fix}") from None
    if unknown := sorted({kind for _, kind in mentions} - set(config.types)):
        raise DataError(f"{where}: `{unknown[0]}` is not in `annotate.types` ({', '.join(config.types)}); add it there")
    found = _align(seed.instruction, mentions, config)
    if found.missing:
        raise DataError(
            f"{where}: {found.missing} of its labels are not in its text, copied letter by letter and outside other "
            "labels; mend it"
        )
    return LabeledText(seed.id, seed.instruction, found.spans, write_labels(seed.instruction, found.spans, config))


def _parse(response: str, config: AnnotateConfig) -> Any:
    """Read labels of people: also a bare list of entities, or a bare label."""
    if config.kind == "label" and response.strip() in config.types:
        return {"label": response.strip()}
    value = json.loads(response)
    return {"entities": value} if isinstance(value, list) else value


def _mentions(value: Any, config: AnnotateConfig) -> list[tuple[str, str]]:
    if config.kind == "label":
        return [("", str(value["label"]))]
    found = [(entity["text"], entity["type"]) for entity in value["entities"]]
    if not all(isinstance(part, str) for mention in found for part in mention):
        raise ValueError("not text")
    return found


def _align(text: str, mentions: Sequence[tuple[str, str]], config: AnnotateConfig) -> AlignedSpans:
    if config.kind == "label":
        return AlignedSpans((LabelSpan(0, len(text), mentions[0][1]),), 0)
    return align(text, mentions)


def write_labels(text: str, spans: Iterable[LabelSpan], config: AnnotateConfig) -> str:
    """Return labels as JSON, left to right."""
    if config.kind == "label":
        return json.dumps({"label": next(iter(spans)).type}, ensure_ascii=False)
    entities = [{"text": text[span.start : span.end], "type": span.type} for span in sorted(spans)]
    return json.dumps({"entities": entities}, ensure_ascii=False)


def read_labels(text: str, labels: str, config: AnnotateConfig) -> tuple[LabelSpan, ...]:
    """Return the spans of labels that `write_labels` wrote."""
    return _align(text, _mentions(json.loads(labels), config), config).spans


def ask_text(text: str, examples: Sequence[LabeledText], config: AnnotateConfig) -> str:
    """Return the request for a text's labels; without examples it is the instruction of the dataset's row."""
    return render("annotate/label", kind=config.kind, types=config.types, examples=examples, text=text)


def labels_schema(config: AnnotateConfig) -> Json:
    """Return the schema of an answer."""
    kind = {"type": "string", "enum": list(config.types)}
    if config.kind == "label":
        return Json({"type": "object", "properties": {"label": kind}, "required": ["label"]})
    parts = {"text": {"type": "string", "minLength": 1, "maxLength": 200}, "type": kind}
    entity = {"type": "object", "properties": parts, "required": ["text", "type"]}
    entities = {"type": "array", "items": entity, "maxItems": _MOST}
    return Json({"type": "object", "properties": {"entities": entities}, "required": ["entities"]})


async def annotate_text(
    recorder: CallRecorder, member: Member, text: str, examples: Sequence[LabeledText], config: AnnotateConfig
) -> AlignedSpans:
    """Have a member label a text, with the nearest example last.

    Raises:
        Unanswered: when there is no usable answer.
    """
    prompt = ask_text(text, examples, config)
    call = member.call(prompt, labels_schema(config), role=CallPurpose.ANNOTATOR, candidate=recorder.candidate)
    return _align(text, _mentions((await recorder.ask(call)).value, config), config)


async def decide_type(
    recorder: CallRecorder, member: Member, text: str, span: LabelSpan, votes: Sequence[str], config: AnnotateConfig
) -> str | None:
    """Have an adjudicator decide the type of a span, or the label of a text.

    Args:
        recorder: asks on behalf of the text.
        member: the adjudicator.
        text: the whole text.
        span: the place in doubt; its type does not count.
        votes: what each annotator said, a line each.
        config: the recipe's section.

    Returns:
        None where it is of no type.

    Raises:
        Unanswered: when there is no usable answer.
    """
    mention = text[span.start : span.end]
    prompt = render("annotate/decide", kind=config.kind, types=config.types, text=text, mention=mention, votes=votes)
    choices = [*config.types, *([NO_TYPE] if config.kind == "spans" else [])]
    schema = Json({"type": "object", "properties": {"type": {"type": "string", "enum": choices}}, "required": ["type"]})
    answer = await recorder.ask(member.call(prompt, schema, role=CallPurpose.ADJUDICATOR, candidate=recorder.candidate))
    chosen = str(answer.value["type"])
    return None if chosen == NO_TYPE else chosen
