"""Control items of several fault kinds, made from seeds: what reviewers are measured and calibrated on.

A control item is an instruction and a response with a known verdict. Every fault is one that generators make. A seed
that cannot show a fault (no number, no passage) has no item of that kind. All draws follow from the run's seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from gra.checks.format import failed
from gra.checks.instruction_constraints import read_constraints
from gra.config.review import ReviewConfig
from gra.core.rng import rng
from gra.core.types import Seed

MIN_WORDS = 12  # a response shorter than this is not cut: its half may be an answer
GOOD_INSTRUCTIONS = 9  # times as many good instructions as of each fault: they set the thresholds
MIN_PER_KIND = 4  # fewer items say nothing about a kind


class ControlKind(StrEnum):
    """Name what is wrong with a control item; GOOD items are hand-written seeds as they are."""

    GOOD = "good"
    MISMATCHED = "mismatched"  # the response of another seed
    TRUNCATED = "truncated"  # the response ends in the middle
    CONTRADICTED = "contradicted"  # a number or a negation is changed
    OFF_FORMAT = "off_format"  # a format constraint of the instruction is broken
    RIGHT_ANSWER = "right_answer"  # a member's answer to a question, right by program
    WRONG_ANSWER = "wrong_answer"
    INCOMPLETE = "incomplete"  # the instruction lacks the text it is about
    MERGED = "merged"  # two instructions in one
    PERSONAL = "personal"  # asks about the life or taste of the assistant
    IMPOSSIBLE = "impossible"  # cannot be done by reading and writing text


RESPONSE_FAULTS = (
    ControlKind.MISMATCHED, ControlKind.TRUNCATED, ControlKind.CONTRADICTED, ControlKind.OFF_FORMAT
)  # fmt: skip
INSTRUCTION_FAULTS = (ControlKind.INCOMPLETE, ControlKind.MERGED, ControlKind.PERSONAL, ControlKind.IMPOSSIBLE)


@dataclass(frozen=True, slots=True)
class ControlItem:
    """One control item.

    Attributes:
        seed: the id of the seed or question that it was made of.
        response: empty where the instruction is at fault.
        author: the member that wrote the response; empty where it is a seed's.
        domain: of the seed; empty for a question.
    """

    kind: ControlKind
    seed: str
    instruction: str
    response: str
    author: str = ""
    domain: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the item has no fault."""
        return self.kind in (ControlKind.GOOD, ControlKind.RIGHT_ANSWER)

    @property
    def name(self) -> str:
        """The item's name, unique within a run."""
        return f"{self.kind}-{self.seed}" + (f"-{self.author}" if self.author else "")


PERSONAL = (
    "Which music do you like best?",
    "What did you have for breakfast today?",
    "Describe your childhood in one sentence.",
    "Who is your favorite actor, and why?",
    "How do you feel about your job?",
    "Where did you spend your last holiday?",
    "What is your phone number?",
    "Which sport do you play at the weekend?",
)
IMPOSSIBLE = (
    "Look at the picture above and name the colors in it.",
    "Listen to the recording and write down what the speaker says.",
    "What is the weather like outside right now?",
    "Book a table for two at seven this evening.",
    "Open the attached spreadsheet and add up the second column.",
    "Taste the soup and say whether it needs salt.",
    "Send this message to my sister and wait for her reply.",
    "Go to the website and download the newest version.",
)
# Shipped domains whose answers are invented: another number there is no contradiction.
_INVENTED = ("creation", "role-play")
_NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w.]*\d)")
_NEGATED = re.compile(r"\b(is|are|was|were|can|does|do|did|will|has|have) not\b|\bcannot\b|\b(\w+)n't\b")
_AFFIRMED = re.compile(r"\b(is|are|was|were|can|will)\b(?! not)")
_PASSAGE = re.compile(r"^(?P<request>[^\n]{10,}?[:.])\s*\n+.{20,}$|^(?P<ask>[^:\n]{10,}:)\s+.{20,}$", re.DOTALL)


def planned_controls(
    seeds: Sequence[Seed], review: ReviewConfig, seed: int
) -> tuple[list[ControlItem], list[ControlItem]]:
    """Make the control items of a recipe from its seeds: those for responses, and those for instructions.

    Natural items are not among them: members write those (natural.py).
    """
    kinds = [ControlKind(kind) for kind in review.control_kinds or ["mismatched"] if kind != "natural"]
    responses = response_controls(seeds, review.control_items, seed, kinds) if kinds else []
    return responses, instruction_controls(seeds, review.control_instructions, seed)


def response_controls(
    seeds: Sequence[Seed], per_kind: int, seed: int, kinds: Sequence[ControlKind] = RESPONSE_FAULTS
) -> list[ControlItem]:
    """Make control items for reviews of responses: `per_kind` good ones, and as many of each fault as seeds allow."""
    drawn = _drawn(seeds, seed, "responses")
    good = [ControlItem(ControlKind.GOOD, s.id, s.instruction, s.response, domain=s.domain) for s in drawn[:per_kind]]
    faults: dict[ControlKind, Callable[[Seed, Random], str | None]] = {
        ControlKind.MISMATCHED: lambda s, random: _mismatched(s, seeds, random),
        ControlKind.TRUNCATED: _truncated,
        ControlKind.CONTRADICTED: _contradicted,
        ControlKind.OFF_FORMAT: _off_format,
    }
    items = list(good)
    for kind in kinds:
        fault = faults[kind]
        found: list[ControlItem] = []
        for sample in drawn:
            response = fault(sample, rng(seed, "control", kind.value, sample.id))
            if response is not None and response != sample.response:
                found.append(ControlItem(kind, sample.id, sample.instruction, response, domain=sample.domain))
            if len(found) == per_kind:
                break
        items += found
    return items


def instruction_controls(seeds: Sequence[Seed], per_kind: int, seed: int) -> list[ControlItem]:
    """Make control items for checks of instructions: good ones, and `per_kind` of each fault as far as seeds allow."""
    drawn = _drawn(seeds, seed, "instructions")
    good = drawn[: GOOD_INSTRUCTIONS * per_kind]
    items = [ControlItem(ControlKind.GOOD, s.id, s.instruction, "") for s in good]
    incomplete = [(s, text) for s in drawn if (text := _incomplete(s)) is not None]
    items += [ControlItem(ControlKind.INCOMPLETE, s.id, text, "") for s, text in incomplete[:per_kind]]
    for one, two in list(zip(drawn[::2], drawn[1::2], strict=False))[:per_kind]:
        items.append(ControlItem(ControlKind.MERGED, one.id, _merged(one, two), ""))
    random = rng(seed, "control", "instructions")
    for kind, texts in ((ControlKind.PERSONAL, PERSONAL), (ControlKind.IMPOSSIBLE, IMPOSSIBLE)):
        chosen = random.sample(texts, min(per_kind, len(texts)))
        items += [ControlItem(kind, f"{kind.value}-{place}", text, "") for place, text in enumerate(chosen)]
    return items


def halves(items: Sequence[ControlItem], seed: int) -> tuple[list[ControlItem], list[ControlItem]]:
    """Split control items by seed sample, so that what calibrates does not measure.

    All items of one seed sample go into one half.
    """
    names = sorted({item.seed for item in items})
    first = set(rng(seed, "control", "halves").sample(names, (len(names) + 1) // 2))
    return [item for item in items if item.seed in first], [item for item in items if item.seed not in first]


def _drawn(seeds: Sequence[Seed], seed: int, purpose: str) -> list[Seed]:
    """Draw an order of the seeds in which domains take turns."""
    random = rng(seed, "control", purpose)
    domains: dict[str, list[Seed]] = {}
    for sample in random.sample(list(seeds), len(seeds)):
        domains.setdefault(sample.domain, []).append(sample)
    longest = max(map(len, domains.values()), default=0)
    return [group[place] for place in range(longest) for group in domains.values() if place < len(group)]


def _mismatched(sample: Seed, seeds: Sequence[Seed], random: Random) -> str | None:
    others = [s for s in seeds if s.response != sample.response and s.domain == sample.domain]
    others = others or [s for s in seeds if s.response != sample.response]
    return random.choice(others).response if others else None


def _truncated(sample: Seed, random: Random) -> str | None:
    words = sample.response.split(" ")
    if len(words) < MIN_WORDS:
        return None
    cut = " ".join(words[: random.randint(len(words) // 3, 2 * len(words) // 3)]).rstrip()
    return None if cut.endswith((".", "!", "?", "```", "}", "]")) else cut


def _contradicted(sample: Seed, random: Random) -> str | None:
    """Change one number of the response, or else turn its first statement into the opposite."""
    if sample.domain in _INVENTED:
        return None
    text = sample.response
    if numbers := list(_NUMBER.finditer(text)):
        found = random.choice(numbers)
        value = int(found[0])
        other = value + random.choice([-2, -1, 1, 2, 10]) if value > 2 else value + random.choice([1, 2, 3])
        return text[: found.start()] + str(max(0, other)) + text[found.end() :]
    if found_negation := _NEGATED.search(text):
        plain = found_negation[1] or ("can" if found_negation[0] == "cannot" else found_negation[2])
        return text[: found_negation.start()] + plain + text[found_negation.end() :]
    if affirmed := _AFFIRMED.search(text):
        return text[: affirmed.end()] + " not" + text[affirmed.end() :]
    return None


def _off_format(sample: Seed, random: Random) -> str | None:
    """Break a format constraint that the response keeps now; None where the instruction states none."""
    checks = read_constraints(sample.instruction)
    if not checks or failed(checks, sample.response):
        return None
    changes: list[Callable[[str], str]] = [
        lambda text: f"Sure, here is the answer, as you asked: {text} I hope that this helps you, and good luck!",
        lambda text: text.upper() if text != text.upper() else text.lower(),
        lambda text: f"{text}\n{text}",
        lambda text: " ".join(text.split()[:2]),
    ]
    random.shuffle(changes)
    return next((new for change in changes if failed(checks, new := change(sample.response))), None)


def _incomplete(sample: Seed) -> str | None:
    """Remove the passage that an instruction is about."""
    found = _PASSAGE.match(sample.instruction.strip())
    if found is None:
        return None
    return (found["request"] or found["ask"]).strip()


def _merged(one: Seed, two: Seed) -> str:
    """Join the first half of one instruction to the second half of another."""
    first, second = one.instruction.split(), two.instruction.split()
    return " ".join([*first[: max(1, (len(first) + 1) // 2)], *second[len(second) // 2 :]])
