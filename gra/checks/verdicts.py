"""Check what programs can check of a response: its arithmetic, and the format that its instruction states.

The verifiers of the synthesis and `gra inspect` both use these functions, so their verdicts agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gra.checks import arithmetic
from gra.checks.format import FormatCheck


@dataclass(frozen=True, slots=True)
class CheckedResponse:
    """Hold what was found right and what was found wrong in a response; at least one of the two has an entry."""

    held: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.broken


def check_arithmetic(instruction: str, response: str) -> CheckedResponse | None:
    """Recompute the equations that a response states, and its solution of a given equation.

    Args:
        instruction: what was asked; equations that it states itself are no claims of the response.
        response: the answer.

    Returns:
        The statements by outcome, or None where the response states no arithmetic.
    """
    given = {claim.text for claim in arithmetic.claims(instruction)}  # "find the mistake in 2 + 2 = 5"
    found = [claim for claim in arithmetic.claims(response) if claim.text not in given]
    found += _solutions(instruction, response)
    if not found:
        return None
    return CheckedResponse(
        tuple(claim.text for claim in found if claim.holds), tuple(claim.text for claim in found if not claim.holds)
    )


def check_format(asked: Sequence[FormatCheck], response: str) -> CheckedResponse | None:
    """Check a response against format constraints.

    Args:
        asked: the constraints that the instruction states.
        response: the answer.

    Returns:
        The constraints by outcome, or None where there are none.
    """
    if not asked:
        return None
    passed = [check.passes(response) for check in asked]
    return CheckedResponse(
        tuple(str(check) for check, held in zip(asked, passed, strict=True) if held),
        tuple(str(check) for check, held in zip(asked, passed, strict=True) if not held),
    )


def _solutions(instruction: str, response: str) -> list[arithmetic.Claim]:
    """Return, for each value that the response gives for the unknown, whether it solves the given equation."""
    equation = arithmetic.equation(instruction)
    if equation is None:
        return []
    found = []
    for shown, value in arithmetic.values_of(response, equation.unknown):
        holds = equation.holds(value)
        if holds or "." not in shown:  # a decimal may be rounded
            text = f"{equation.left} = {equation.right} for {equation.unknown} = {shown}"
            found.append(arithmetic.Claim(text, holds))
    return found
