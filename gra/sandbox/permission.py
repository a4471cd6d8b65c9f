"""The user's word that code written by models may run here.

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
    """Code of a model would have to run, and the user has not allowed it; nothing was spent."""

    exit_code = ExitCode.WRONG_INPUT


@dataclass(frozen=True, slots=True)
class Permission:
    """Somebody allowed it; `given_by` says how, for the record."""

    given_by: str


def require(permission: Permission | None, what: str) -> Permission:
    """The permission, or a refusal that names what asked for it.

    Args:
        permission: what the user gave.
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
