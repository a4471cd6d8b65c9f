"""Add format constraints to new instructions, such as "Use at most 20 words.", and repair responses that break one.

Small models hardly ever ask for a format, even when their parents do. A student of such rows forgets how to keep one
(docs/levers.md). So a program adds the constraint, in words that `gra/checks/instruction_constraints.py` reads,
and the `format` verifier checks the response. With `repair: true` a program gives a response the form that it lacks.
It changes the case of letters, or adds words at the beginning or the end.

Every change here raises `FORMAT_CONSTRAINTS_VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random

from gra.checks.format import FormatCheck, failed
from gra.checks.instruction_constraints import read_constraints
from gra.checks.instruction_text import limits_answer
from gra.config.review import FormatConstraintsConfig
from gra.core.types import Candidate, Verified
from gra.synthesis.best_of_n import taken_number
from gra.synthesis.committee.generator import Response

FORMAT_CONSTRAINTS_VERSION = 4
_DRAWS = 4
# A kind is drawn first, then a wording: a kind with more wordings is not drawn more often.
_WORDINGS = {
    "word": ("Answer with one word.", "Reply with a single word."),
    "sentences": ("Answer in one sentence.", "Use exactly {few} sentences.", "Reply in one short sentence."),
    "words": ("Use at most {words} words.", "Answer in no more than {words} words.", "Keep it under {words} words."),
    "bullets": ("Answer with exactly {few} bullet points.", "Give {few} bullet points and nothing else."),
    "numbers": ("Answer as a numbered list.", "Use a numbered list with {few} items."),
    "json": ("Write the answer as JSON with the keys {keys}.", "Reply with JSON that has the keys {keys}."),
    "lower": ("Write everything in lowercase letters.", "Use only lowercase letters."),
    "capitals": ("Write your whole answer in capital letters.", "Answer in capital letters only."),
    "commas": ("Do not use commas.", "Answer without any commas."),
    "begin": ("Begin your answer with '{begin}'.", "Start with the words '{begin}'."),
    "end": ("Finish your answer with '{end}'.", "End with the words '{end}'."),
    "two": ("Use only lowercase letters and at most {words} words.", "Use one sentence and no commas."),
}
_KEYS = ("answer and reason", "topic and answer", "summary and example", "answer, reason and example", "title and text")
_BEGIN = ("In short", "To begin with", "Here it is", "Well", "The short answer")
_ENDS, _MARKS, _CLOSING = (".", "!", "?", "…", ":"), ".,:;!?", "\"'”’»)]*_ "
_PARAGRAPH = "\n\n"
# What is hardly prose: code, formulas, tables, structured text, addresses.
_NO_PROSE = re.compile(
    r"[`\\{}<>=|@_#]|://|^\s*(?:def|class|import|from|return|select)\b.*[:;()*]", re.MULTILINE | re.IGNORECASE
)
_LIST = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")
_END = ("That is all.", "Hope this helps!", "The end.", "Thank you.")


def add_format_constraint(instruction: str, domain: str, config: FormatConstraintsConfig, random: Random) -> str:
    """Return the instruction, with a format constraint appended in the recipe's share of cases.

    The constraint gets its own paragraph where it would run into a list, a program or another text. An instruction that
    already has a constraint, or limits its answer in another way, stays unchanged. So does one after which no drawn
    constraint would be read correctly.

    Args:
        instruction: the new instruction.
        domain: the candidate's domain.
        config: the recipe's share and domains.
        random: the candidate's own random numbers.
    """
    in_domain = domain in (config.domains or [domain])
    if random.random() >= config.share or not in_domain:
        return instruction
    if read_constraints(instruction) or limits_answer(instruction):
        return instruction
    bare = instruction.rstrip()
    ends = "\n" not in bare and bare.rstrip("\"')”’").endswith((".", "?", "!"))
    for _ in range(_DRAWS):
        constraint = draw_constraint(random)
        constrained = f"{bare} {constraint}" if ends else f"{bare}\n\n{constraint}"
        if read_constraints(constrained) == read_constraints(constraint):
            return constrained
    return instruction


def draw_constraint(random: Random) -> str:
    """Draw one format constraint in words."""
    wording = random.choice(_WORDINGS[random.choice(sorted(_WORDINGS))])
    return wording.format(
        few=random.randint(2, 4),
        words=random.choice((12, 15, 20, 25, 30, 40)),
        keys=random.choice(_KEYS),
        begin=random.choice(_BEGIN),
        end=random.choice(_END),
    )


def repair_form(instruction: str, response: str) -> str | None:
    """Return the response in the form that its instruction asks for; None where no repair gives it that form.

    A repair changes the case of letters, or adds the words that must come first or last. What may be code, a formula
    or an address keeps its case. So do letters whose other case cannot be undone.
    """
    checks = read_constraints(instruction)
    first = text = response.strip()
    for check in checks if text else ():
        if not check.passes(text):
            text = _repaired(check, text)
    return text if text != first and not failed(checks, text) else None


def _repaired(check: FormatCheck, text: str) -> str:
    match check.kind:
        case "uppercase" if _has_plain_case(text):
            return text.upper()
        case "lowercase" if _has_plain_case(text):
            return text.lower()
        case "first_words":
            return f"{str(check.arguments['text']).rstrip(_MARKS)}:{_gap(text)}{text}"
        case "last_words":
            ended = _gap(text) == _PARAGRAPH or text.rstrip(_CLOSING).endswith(_ENDS)
            return f"{text}{'' if ended else '.'}{_gap(text)}{check.arguments['text']}"
        case _:
            return text


def _has_plain_case(text: str) -> bool:
    """Return whether other case leaves the meaning of a text alone."""
    return not _NO_PROSE.search(text) and text.upper().lower() == text.lower() and text.lower().upper() == text.upper()


def _gap(text: str) -> str:
    """Return what separates further words from a text: lists, programs and tables need a paragraph of their own."""
    return _PARAGRAPH if "\n" in text or _NO_PROSE.search(text) or _LIST.match(text) else " "


def repaired_responses(
    decided: Sequence[Candidate], config: FormatConstraintsConfig
) -> list[Callable[[int], Awaitable[Response]]]:
    """Return writers of further responses: those that only a format constraint rejected, in their repaired form.

    Args:
        decided: the candidate once for each response, with that response's verdict.
        config: the recipe's; without `repair` there are none.
    """
    broken = [c for c in decided if config.repair and any(_breaks_form(v) for v in c.verifications)]
    texts = {text: c.thinking for c in broken if (text := repair_form(c.instruction, c.response)) is not None}
    return [partial(_give, Response(text, thinking)) for text, thinking in texts.items()]


def is_repaired(candidate: Candidate, best_of: int) -> bool:
    """Return whether a program gave the taken response its form; such responses follow the `best_of` written ones."""
    others, number = candidate.alternatives, taken_number(candidate)
    written = [other.response for other in others if other.number < best_of]
    return number >= best_of and any(repair_form(candidate.instruction, r) == candidate.response for r in written)


def _breaks_form(verdict: object) -> bool:
    return isinstance(verdict, Verified) and verdict.verifier == "format" and bool(verdict.broken)


async def _give(response: Response, _number: int) -> Response:
    return response
