"""Check the format of an answer by a program: each row of a task or an instruction states checks, and all must pass.

Evaluation reads them from a file, `checks: [{"kind": "words_at_most", "n": 20}, ...]`. Synthesis reads them from the
wording of an instruction (`gra.checks.instruction_constraints`). `gra.checks.format_kinds` defines the kinds; an
empty answer passes none. Raise `CHECKS_VERSION` whenever a check judges differently than before: recorded answers
are then scored anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from re import _constants as regex_codes  # type: ignore[attr-defined]
from re import _parser as regex_parser  # type: ignore[attr-defined]
from typing import Any, get_type_hints

from gra.checks.format_kinds import KINDS
from gra.checks.json_text import JSON_TYPES, composed
from gra.config.problems import did_you_mean
from gra.core.errors import DataError

CHECKS_VERSION = 2
_FIXED = (regex_codes.LITERAL, regex_codes.NOT_LITERAL, regex_codes.IN, regex_codes.CATEGORY)


@dataclass(frozen=True, slots=True)
class FormatCheck:
    """One demand on the format of an answer: its kind, and the arguments of that kind."""

    kind: str
    arguments: Mapping[str, Any]

    def passes(self, answer: str) -> bool:
        """Decide whether the answer meets the demand; an empty answer meets none.

        Texts are compared in Unicode's composed form (NFC).
        """
        given = {name: composed(value) if name != "pattern" else value for name, value in self.arguments.items()}
        return bool(answer.strip()) and KINDS[self.kind](composed(answer), **given)

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.kind} ({shown})" if shown else self.kind


def parse_checks(rows: Any, where: str) -> tuple[FormatCheck, ...]:
    """Read the checks of one row.

    Args:
        rows: the value of the row's `checks`.
        where: "file:line", for the message.

    Raises:
        DataError: for a kind or an argument that does not exist or has the wrong type.
    """
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{where}: `checks` must be a list with at least one check")
    return tuple(_parse(row, where) for row in rows)


def failed(checks: Sequence[FormatCheck], answer: str) -> list[str]:
    """List the kinds of the checks that an answer does not pass; empty when it passes all."""
    return [check.kind for check in checks if not check.passes(answer)]


def _parse(row: Any, where: str) -> FormatCheck:
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise DataError(f'{where}: a check is a mapping with a `kind`, for example {{"kind": "no_commas"}}')
    kind = row["kind"]
    if kind not in KINDS:
        hint = did_you_mean(kind, list(KINDS)) or f" (known: {', '.join(KINDS)})"
        raise DataError(f"{where}: there is no check `{kind}`{hint}")
    arguments = {key: value for key, value in row.items() if key != "kind"}
    parameters = {name: p for name, p in inspect.signature(KINDS[kind]).parameters.items() if name != "answer"}
    for name in arguments:
        if name not in parameters:
            known = f"; it takes {', '.join(parameters) or 'no arguments'}"
            raise DataError(f"{where}: the check `{kind}` has no argument `{name}`{known}")
    for name, parameter in parameters.items():
        if name in arguments:
            _check_argument(kind, name, arguments[name], where)
        elif parameter.default is inspect.Parameter.empty:
            raise DataError(f"{where}: the check `{kind}` needs `{name}`")
    if kind == "contains_any" and arguments.get("at_least", 1) > len(set(arguments["texts"])):
        raise DataError(f"{where}: `at_least` of the check `{kind}` is more than the number of `texts`; lower it")
    return FormatCheck(kind, arguments)


def _check_argument(kind: str, name: str, value: Any, where: str) -> None:
    wanted = get_type_hints(KINDS[kind])[name]
    if wanted is int:
        good, what = type(value) is int and value > 0, "a whole number above 0"
    elif wanted is bool:
        good, what = isinstance(value, bool), "true or false"
    elif wanted == list[str]:
        good = isinstance(value, list) and value != [] and all(isinstance(v, str) and v for v in value)
        what = "a list of texts"
    elif wanted == dict[str, str]:
        good = (
            isinstance(value, dict)
            and value != {}
            and all(isinstance(v, str) and v in JSON_TYPES for v in value.values())
        )
        what = f"a mapping of paths to types ({', '.join(JSON_TYPES)})"
    elif wanted == dict[str, Any]:
        good, what = isinstance(value, dict) and value != {}, "a mapping of paths to values"
    else:
        good, what = isinstance(value, str) and value != "", "a text"
    if not good:
        raise DataError(f"{where}: `{name}` of the check `{kind}` must be {what}, not {value!r}")
    if name == "pattern":
        _check_pattern(value, where)


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
        parsed = regex_parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise DataError(f"{where}: `{pattern}` is not a valid regular expression ({error})") from None
    if _explodes(parsed):
        raise DataError(
            f"{where}: `{pattern}` repeats a part that is itself a repeat, which may take forever on some answers; "
            "make the inner repeat possessive (`++`, `*+`), or put a fixed mark between the parts"
        )


def _explodes(parsed: Any) -> bool:
    """Decide whether a pattern has a repeat like "(a+)+" or "(.*,)+", which may take exponential time."""
    for code, argument in parsed:
        parts = _parts(code, argument)
        if _unbounded(code, argument) and any(map(_splits_freely, _parts(code, argument))):
            return True
        if any(map(_explodes, parts)):
            return True
    return False


def _splits_freely(parsed: Any) -> bool:
    """Decide whether a repeated part can match one text in several ways: a repeat with no fixed mark beside it."""
    repeated = {str(argument[2]) for code, argument in parsed if _unbounded(code, argument) and argument[0] > 0}
    # In "\w+\s+" each of the two ends the other.
    marked = len(repeated) > 1 or any(code in _FIXED for code, _ in parsed)
    for code, argument in parsed:
        if _unbounded(code, argument) and (not marked or any(item is regex_codes.ANY for item, _ in argument[2])):
            return True
        inner = [] if marked or code not in (regex_codes.SUBPATTERN, regex_codes.BRANCH) else _parts(code, argument)
        if any(map(_splits_freely, inner)):
            return True
    return False


def _unbounded(code: Any, argument: Any) -> bool:
    # Possessive repeats have a code of their own and never try a second way.
    return code in (regex_codes.MAX_REPEAT, regex_codes.MIN_REPEAT) and argument[1] is regex_codes.MAXREPEAT


def _parts(code: Any, argument: Any) -> list[Any]:
    """List the patterns inside one element of a parsed pattern."""
    if code in (regex_codes.MAX_REPEAT, regex_codes.MIN_REPEAT, regex_codes.POSSESSIVE_REPEAT):
        return [argument[2]]
    if code is regex_codes.SUBPATTERN:
        return [argument[3]]
    if code is regex_codes.BRANCH:
        return list(argument[1])
    if code is regex_codes.ATOMIC_GROUP:
        return [argument]
    if code is regex_codes.GROUPREF_EXISTS:
        return [part for part in argument[1:] if part is not None]
    return [argument[1]] if code in (regex_codes.ASSERT, regex_codes.ASSERT_NOT) else []
