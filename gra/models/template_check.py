"""Render a chat template in a child process with limited time and memory.

A template comes with a model and may hold nested loops that never end or texts that fill the memory. Run as a module,
this file renders the template on its standard input: `python -m gra.models.template_check`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from functools import lru_cache
from typing import Any

from gra.core.processes.secrets import child_environment

LARGEST_TEMPLATE = 1_000_000  # characters
_CPU_S = 2
_WALL_S = 60.0  # the machine may be busy; the limit on CPU time ends a loop earlier
_MEMORY = 2 << 30  # bytes of address space
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
    command = [sys.executable, "-m", "gra.models.template_check"]
    try:
        done = subprocess.run(
            command, input=json.dumps(template).encode(), capture_output=True, timeout=_WALL_S, env=child_environment()
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):  # the child was ended by a limit
        return f"rendering it takes more than {_CPU_S} s or {_MEMORY >> 30} GB"
    return None if answer is None else str(answer)


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


def main() -> None:
    """Render the template on standard input within the limits, and print the problem as JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(_render(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
