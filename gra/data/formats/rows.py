"""Rows of an export, before and after they have the form of another tool."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One sample to train on, and where it comes from.

    Attributes:
        score: the reviewers' mean (0-10), where there is one.
        model: the model that wrote the response, as the run names it.
        license: of that model.
        reviewed_by: what people decided about the row, such as `human:ann keep`.
        edited: whether a person wrote the instruction or the response anew.
        system: the system message; empty for none.
    """

    id: str
    domain: str
    instruction: str
    response: str
    state: str
    score: float | None
    model: str
    license: str
    reviewed_by: tuple[str, ...] = ()
    edited: bool = False
    system: str = ""

    @property
    def texts(self) -> tuple[str, str, str]:
        """Return what every form must keep: system message, instruction, response."""
        return self.system, self.instruction, self.response

    def origin(self) -> dict[str, Any]:
        """Return where the row comes from, without its texts."""
        left_out = ("system", "instruction", "response")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        return values | {"reviewed_by": list(self.reviewed_by)}


@dataclass(frozen=True, slots=True)
class ExportPair:
    """Two responses to one instruction, the better one first."""

    id: str
    instruction: str
    chosen: str
    rejected: str
    system: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what every form must keep: system message, instruction, and both responses."""
        return self.system, self.instruction, self.chosen, self.rejected
