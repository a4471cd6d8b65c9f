"""Demands on the form of an answer, for new instructions to end with: "Use at most 20 words."

Small models ask questions and hardly ever ask for a form, whatever their parents did, and a student of such rows
unlearns to keep one (docs/reproduction.md). So a program adds the demand, in plain words that `gra/checks/instruction_constraints.py`
is sure to read, and the `format` program sees whether the answer keeps it. Every change here raises `FORMAT_CONSTRAINTS_VERSION`.
"""

from __future__ import annotations

from random import Random

from gra.checks.instruction_constraints import read_constraints
from gra.config.synthesis import FormatConstraintsConfig

FORMAT_CONSTRAINTS_VERSION = 3
_DRAWS = 4
# By kind, so that no kind is drawn more often for having more wordings.
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


def add_format_constraint(instruction: str, domain: str, forms: FormatConstraintsConfig, luck: Random) -> str:
    """The instruction, in the recipe's share of cases with a demand on form behind it.

    It stands in a paragraph of its own where it would else run into a list, a program or a text to be worked on. An
    instruction that has a demand already stays as it was written, and so does one behind which no demand that is drawn
    would be read as what it is.
    """
    if luck.random() >= forms.share or domain not in (forms.domains or [domain]) or read_constraints(instruction):
        return instruction
    bare = instruction.rstrip()
    ends = "\n" not in bare and bare.rstrip("\"')”’").endswith((".", "?", "!"))
    for _ in range(_DRAWS):
        demand = draw_constraint(luck)
        asked = f"{bare} {demand}" if ends else f"{bare}\n\n{demand}"
        if read_constraints(asked) == read_constraints(demand):
            return asked
    return instruction


def draw_constraint(luck: Random) -> str:
    """One demand in words."""
    wording = luck.choice(_WORDINGS[luck.choice(sorted(_WORDINGS))])
    return wording.format(
        few=luck.randint(2, 4),
        words=luck.choice((12, 15, 20, 25, 30, 40)),
        keys=luck.choice(_KEYS),
        begin=luck.choice(_BEGIN),
        end=luck.choice(_END),
    )
