"""Add format constraints to new instructions, such as "Use at most 20 words."

Small models hardly ever ask for a format, even when their parents do. A student of such rows forgets how to keep one
(docs/reproduction.md). So a program adds the constraint, in words that `gra/checks/instruction_constraints.py` reads,
and the `format` verifier checks the response. Every change here raises `FORMAT_CONSTRAINTS_VERSION`.
"""

from __future__ import annotations

from random import Random

from gra.checks.instruction_constraints import read_constraints
from gra.checks.instruction_text import limits_answer
from gra.config.synthesis import FormatConstraintsConfig

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
