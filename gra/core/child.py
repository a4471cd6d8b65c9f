"""Environment variables of child processes: they get what they need, and no key of a server or hub."""

from __future__ import annotations

import os

from gra.core.secrets import is_secret_name


def child_environment(*needed: str, **more: str) -> dict[str, str]:
    """Return this process's environment without secrets, for a child process.

    Args:
        needed: variables that the child needs although their names look like those of secrets.
        more: variables to set.
    """
    kept = {name: value for name, value in os.environ.items() if name in needed or not is_secret_name(name)}
    return kept | more
