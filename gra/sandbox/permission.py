"""Represent the user's permission to run code that models wrote.

Three kinds of places may make one, and a test checks it: the command lines (`--allow-code-execution`), the recipe of an
experiment (`allow_code_execution: true`), and calls from Python (`allow_code_execution=True`). Suites, synthesis
recipes and datasets cannot, because they travel between people.
"""

from __future__ import annotations

from dataclasses import dataclass

from gra.core.errors import ExitCode, GraError

FLAG = "--allow-code-execution"
KEY = "allow_code_execution"


class CodeExecutionRefused(GraError):
    """Raised when code of a model would have to run without permission; nothing was spent."""

    exit_code = ExitCode.WRONG_INPUT


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
