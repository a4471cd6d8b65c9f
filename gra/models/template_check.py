"""Try a chat template in a child process with limited time and memory.

A template comes with a model and may hold nested loops that never end or texts that fill the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gra.core.processes.bounded import BoundedFunction, LimitExceeded

LARGEST_TEMPLATE = 1_000_000  # characters
_SECONDS = 2.0  # of processor time; a usual template takes milliseconds
_LONGEST = 1_000_000  # characters that a short conversation may become
_SAID = {
    "question": [{"role": "user", "content": "Why?"}],
    "exchange": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
    "longer": [{"role": role, "content": "Why?"} for role in ("user", "assistant", "user", "assistant", "user")],
}


@lru_cache(maxsize=64)
def template_problem(template: str) -> str | None:
    """Say why a chat template cannot be used; None when it can."""
    if len(template) > LARGEST_TEMPLATE:
        return f"it has more than {LARGEST_TEMPLATE:,} characters"
    try:
        problem = _child()(template)
    except LimitExceeded:
        return f"rendering it takes more than {_SECONDS:g} s or too much memory"
    return None if problem is None else str(problem)


@lru_cache(maxsize=1)
def _child() -> BoundedFunction:
    return BoundedFunction(f"{__name__}:make_renderer", seconds=_SECONDS)


def make_renderer() -> Callable[[str], str | None]:
    """Return the function that the child process runs."""
    import jinja2.sandbox  # noqa: F401  # before memory is limited

    return _render


def _render(template: str) -> str | None:
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: "2000-01-01"}
    try:
        compiled = environment.from_string(template)
    except TemplateSyntaxError as error:
        return f"{error}, line {error.lineno}"
    except (TemplateError, RecursionError, ValueError, TypeError, OverflowError, SyntaxError) as error:
        return f"it is no Jinja template: {error}"
    for messages in _SAID.values():
        size = 0
        try:
            for part in compiled.generate(
                messages=messages, add_generation_prompt=True, bos_token="", eos_token="", pad_token="", unk_token=""
            ):
                size += len(part)
                if size > _LONGEST:
                    return f"it makes more than {_LONGEST:,} characters of a few words"
        except MemoryError:
            raise
        except Exception:
            continue  # it refuses this conversation, as many do; what it says of a row is reported with the row
    return None


def _refuse(message: object) -> None:
    from jinja2 import TemplateError

    raise TemplateError(str(message))


def _generation() -> Any:
    """Return an extension for the tag `generation` of transformers, whose body is rendered as it is."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Generation
