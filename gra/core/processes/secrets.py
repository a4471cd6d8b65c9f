"""Recognize secrets by the name of a variable or by the value, and keep them from errors and child processes."""

from __future__ import annotations

import os
import re

# Names of variables that hold secrets have one of these parts.
_PARTS = frozenset(
    ("KEY", "KEYS", "APIKEY", "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASS", "CREDENTIALS")
)
_PREFIXED = re.compile(r"(?:sk-|sk_|hf_|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|AIza|eyJ|gsk_|r8_)[\w.-]{6,}")
_LONG = re.compile(r"(?=[^\s/]*[0-9])(?=[^\s/]*[A-Za-z])[A-Za-z0-9_+=]{32,}")
HIDDEN = "(hidden)"


def is_secret_name(name: str) -> bool:
    """Whether a variable or setting holds a secret, by its name: OPENAI_API_KEY, HF_TOKEN, engine.api_key."""
    return bool(_PARTS & set(re.split(r"[_.\-]", name.upper())))


def looks_secret(value: str) -> bool:
    """Whether a text looks like a key or token; long random-looking words count."""
    return bool(_PREFIXED.search(value) or _LONG.search(value))


def shown_name(name: str) -> str:
    """Return the name of a setting for an error or a comment; a key that was pasted in its place is hidden."""
    return HIDDEN if looks_secret(name) else name


def child_environment(*needed: str, **more: str) -> dict[str, str]:
    """Return this process's environment without secrets, for a child process.

    Args:
        needed: variables that the child needs although their names look like those of secrets.
        more: variables to set.
    """
    kept = {name: value for name, value in os.environ.items() if name in needed or not is_secret_name(name)}
    return kept | more
