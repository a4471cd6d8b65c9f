"""Verifiers of the user's own: a function that looks at an instruction and its response."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from gra.config.review import VerifierConfig
from gra.core.errors import ExitCode, GraError, RecipeError
from gra.core.types import Abstained, Verified
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.verifiers import BUILT_IN_VERIFIERS, VerifierInput, VerifierResources, register

Check = Callable[[str, str], bool | None]


class VerifierFailed(GraError):
    """A verifier of the user's own failed, or returned something else than a verdict."""

    exit_code = ExitCode.WRONG_INPUT


class FunctionVerifier:
    """Asks the user's function about every response; each registered function makes a subclass.

    Calls do not overlap, and the event loop goes on meanwhile.
    """

    kind: ClassVar[str]
    version: ClassVar[str]
    fault: ClassVar[str]

    def __init__(self, check: Check, recipe: VerifierConfig, resources: VerifierResources) -> None:
        self.check = check
        self.recipe = recipe
        self._one = asyncio.Lock()

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verified | Abstained:
        """Return the function's verdict: passed for True, failed for False, an abstention for None.

        Raises:
            VerifierFailed: when the function fails, or returns anything else.
        """
        async with self._one:
            found = await asyncio.to_thread(self._ask, sample, recorder.candidate)
        if found is None:
            return Abstained(self.kind, self.recipe.mode, "the function returned None")
        text = (f"the function `{getattr(self.check, '__name__', self.kind)}`",)
        held, broken = (text, ()) if found else ((), text)
        return Verified(self.kind, self.recipe.mode, held, broken, 10.0 if found else 0.0)

    def _ask(self, sample: VerifierInput, candidate: str) -> bool | None:
        try:
            found = self.check(sample.instruction, sample.response)
        except Exception as error:
            raise VerifierFailed(
                f"the verifier `{self.kind}` failed on {candidate} with {type(error).__name__}: {error}; "
                "repair the function and run again, recorded answers are kept"
            ) from error
        if found is None or isinstance(found, bool):
            return found
        raise VerifierFailed(
            f"the verifier `{self.kind}` returned {found!r} on {candidate}; it must return True, False or None"
        )


def verifier(kind: str, *, fault: str | None = None, version: str = "") -> Callable[[Check], Check]:
    """Make a verifier of a function; recipes name it in `review.verifiers` by its kind.

    The function takes an instruction and a response. It returns True when the response passes, False when it does not,
    and None when there is nothing to check. Its source is part of a run's fingerprint, so a changed function reviews
    anew. What it calls or reads elsewhere is not: raise `version` when that changes.

    Args:
        kind: the name in recipes: lower-case letters, digits and `-`.
        fault: why a rejected candidate was rejected, for the lineage.
        version: any text; another one makes recorded verdicts void.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        RecipeError: when the name is not allowed.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", kind):
        raise RecipeError(f"a verifier cannot be called `{kind}`; use lower-case letters, digits and `-`")
    if kind in BUILT_IN_VERIFIERS:
        raise RecipeError(f"`{kind}` is a verifier that comes with GRA; give yours another name")

    def add(check: Check) -> Check:

        class OwnVerifier(FunctionVerifier):
            """The verifier of the decorated function."""

            def __init__(self, recipe: VerifierConfig, resources: VerifierResources) -> None:
                super().__init__(check, recipe, resources)

        OwnVerifier.kind, OwnVerifier.fault = kind, fault or f"`{kind}` is not passed"
        OwnVerifier.version = f"{version}.{_source_digest(check)}"
        register(kind, OwnVerifier)
        return check

    return add


def _source_digest(check: Check) -> str:
    """Digest a function's source, or its bytecode where no source is to be had."""
    try:
        source = textwrap.dedent(inspect.getsource(check))
    except (OSError, TypeError):
        code = getattr(check, "__code__", None)
        source = repr((code.co_code, code.co_consts, code.co_names)) if code is not None else repr(type(check))
    return sha256(source.encode()).hexdigest()


def load_plugin(file: Path) -> None:
    """Run a Python file of the user's, which registers verifiers.

    Args:
        file: a file that the user named on the command line; no recipe can name one.

    Raises:
        RecipeError: when the file is not there, or fails.
    """
    if not file.is_file():
        raise RecipeError(f"`--plugin {file}` names no file; give a Python file that registers verifiers")
    name = f"gra_plugin_{re.sub(r'[^a-zA-Z0-9_]', '_', file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"`--plugin {file}` is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except GraError:
        raise
    except Exception as error:
        raise RecipeError(f"`--plugin {file}` failed with {type(error).__name__}: {error}; repair the file") from error
