"""Decide which server may get which key: the user, and no recipe, names pairs of a variable and a host.

A recipe may come from another person and name any variable and any address. So a key is sent only to a host that the
user named for its variable: in `hosts.yaml` of GRA's configuration folder, on the command line (`--allow-key`), or in
the variable GRA_ALLOW_KEYS. Well-known pairs are built in, and servers on this machine may get any key but the hub's.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from gra.config.committee import BackendConfig
from gra.config.synthesis import SynthesisRecipe, members_of
from gra.core.errors import RecipeError, user_path
from gra.core.files import read_regular
from gra.core.stored.reader import load_plain_yaml

FILE = "hosts.yaml"
FLAG = "--allow-key"
ENVIRONMENT = "GRA_ALLOW_KEYS"  # pairs like those of the flag, with commas between them
_WELL_KNOWN = {
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "CEREBRAS_API_KEY": ("api.cerebras.ai",),
    "DASHSCOPE_API_KEY": ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
    "DEEPINFRA_API_KEY": ("api.deepinfra.com",),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "GROQ_API_KEY": ("api.groq.com",),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "NVIDIA_API_KEY": ("integrate.api.nvidia.com",),
    "OPENAI_API_KEY": ("api.openai.com",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "TOGETHER_API_KEY": ("api.together.xyz", "api.together.ai"),
    "XAI_API_KEY": ("api.x.ai",),
}
# Tokens of the hub open the user's repositories, so a server on this machine does not get them either.
_OF_THE_HUB = re.compile(r"(?:HF|HUGGING_?FACE)(?:_\w+)?_TOKEN")
_PAIR = re.compile(r"(?P<variable>[A-Z_][A-Z0-9_]{0,63})=(?P<host>[^\s=/@]+)")

_allowed: ContextVar[Mapping[str, frozenset[str]] | None] = ContextVar("allowed_keys", default=None)


def allow_keys(pairs: Iterable[str]) -> None:
    """Let keys go to hosts, for the rest of this process or task.

    Args:
        pairs: NAME=HOST or NAME=HOST:PORT, as `--allow-key` has them.

    Raises:
        RecipeError: a text is no such pair.
    """
    known = {variable: set(hosts) for variable, hosts in (_allowed.get() or {}).items()}
    for text in pairs:
        variable, host = _pair(text, FLAG)
        known.setdefault(variable, set()).add(host)
    _allowed.set({variable: frozenset(hosts) for variable, hosts in known.items()})


def check_keys(recipe: SynthesisRecipe) -> None:
    """Check every server that a recipe names a key for.

    Raises:
        RecipeError: the user did not name a server's host for its key.
    """
    for member in members_of(recipe):
        check_key(member.engine or recipe.engine)


def check_key(backend: BackendConfig) -> None:
    """Check that the user lets a server have its key.

    Raises:
        RecipeError: the host is not named for the variable; the message has the line to add.
    """
    variable, address = backend.api_key_env, backend.base_url
    if backend.kind != "openai" or variable is None or address is None:
        return
    parts = urlsplit(address)
    host = (parts.hostname or "").rstrip(".").lower()
    secure, local = parts.scheme == "https", _is_loopback(host)
    port = parts.port or (443 if secure else 80)
    if local and not _OF_THE_HUB.fullmatch(variable):
        return
    if secure and host in _WELL_KNOWN.get(variable, ()):
        return
    if {host, f"{host}:{port}"} & _hosts_of(variable):
        return
    shown = host if port in (80, 443) else f"{host}:{port}"
    raise RecipeError(
        f"the recipe sends the key in {variable} to {shown}, and you have not said that this server may have it; "
        f"if you trust it with this key, add the line `{variable}: [{shown}]` to {_file()}, or write "
        f"{FLAG} {variable}={shown}"
    )


def _hosts_of(variable: str) -> frozenset[str]:
    given = os.environ.get(ENVIRONMENT, "")
    pairs = [_pair(text, ENVIRONMENT) for text in given.split(",") if text.strip()]
    from_environment = frozenset(host for name, host in pairs if name == variable)
    return (
        (_allowed.get() or {}).get(variable, frozenset()) | from_environment | _from_file().get(variable, frozenset())
    )


def _from_file() -> dict[str, frozenset[str]]:
    file = _file()
    if not file.is_file():
        return {}
    try:
        content = load_plain_yaml(read_regular(file)) or {}
    except (OSError, ValueError) as error:
        raise RecipeError(f"it cannot be read ({error})", file) from None
    if not isinstance(content, dict):
        raise RecipeError("must map variables to hosts, such as `OPENAI_API_KEY: [api.openai.com]`", file)
    found = {}
    for variable, hosts in content.items():
        named = hosts if isinstance(hosts, list) else [hosts]
        found[str(variable)] = frozenset(_pair(f"{variable}={host}", str(file))[1] for host in named)
    return found


def _file() -> Path:
    if own := os.environ.get("GRA_CONFIG"):
        return user_path(own, "GRA_CONFIG") / FILE
    shared = os.environ.get("XDG_CONFIG_HOME")
    return (Path(shared) if shared else user_path("~/.config", "the home folder")) / "gra" / FILE


def _pair(text: str, where: str) -> tuple[str, str]:
    found = _PAIR.fullmatch(text.strip())
    if found is None:
        raise RecipeError(
            f"{where} takes the name of a variable and a host, such as OPENAI_API_KEY=api.openai.com; never write a key"
        )
    return found["variable"], found["host"].rstrip(".").lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
