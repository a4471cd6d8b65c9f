"""Represent the user's permission to run code that models wrote.

Only the command lines (`--allow-code-execution`) and an experiment's recipe (`allow_code_execution: true`) may make it;
a test counts these places. Suites, synthesis recipes and datasets may not, because they travel between people.
"""

from __future__ import annotations

from dataclasses import dataclass

from gra.core.errors import GraError

FLAG = "--allow-code-execution"
KEY = "allow_code_execution"


class CodeExecutionRefused(GraError):
    """Raised when code of a model would have to run without permission; nothing was spent."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Permission:
    """Allows code of models to run; `given_by` names the flag or file that did, for the record."""

    given_by: str


def require(permission: Permission | None, what: str) -> Permission:
    """Return the permission, or refuse with the name of what needs it.

    Args:
        permission: the user's, or None.
        what: what needs it, such as "the task `humaneval`".

    Raises:
        CodeExecutionRefused: when there is none.
    """
    if permission is None:
        raise CodeExecutionRefused(
            f"{what} runs code that a model wrote, which is off unless you allow it; pass {FLAG} (in an experiment's "
            f"recipe: `{KEY}: true`) if you accept what docs/evaluation.md says about it, or leave it out"
        )
    return permission
