"""Environment variables of child processes: they get what they need, and no key of a server or hub."""

from __future__ import annotations

import os

# Names of variables that hold secrets end in one of these.
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS", "KEYS", "TOKENS", "SECRETS", "PASS")


def is_secret(variable: str) -> bool:
    """Whether a variable holds a secret, by its name: OPENAI_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY."""
    return any(part in _SECRET for part in variable.upper().split("_"))


def child_environment(*needed: str, **more: str) -> dict[str, str]:
    """Return this process's environment without secrets, for a child process.

    Args:
        needed: variables that the child needs although their names look like those of secrets.
        more: variables to set.
    """
    kept = {name: value for name, value in os.environ.items() if name in needed or not is_secret(name)}
    return kept | more
