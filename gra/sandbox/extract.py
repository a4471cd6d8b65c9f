"""Find the program in a model's answer: in a fence, without one, or as the body of a given beginning.

Nothing is run here, and no answer is repaired. Text is chosen and changed in three ways only:

- a body is put below its beginning
- an indented fence loses its indentation
- what follows the last complete statement of an unfenced answer is left out
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from typing import Literal

from gra.core.text.thinking import split_thinking

How = Literal["fenced", "bare", "body"]

EXTRACT_VERSION = 2  # raise when the same answer would give another program
_MOST = 100_000  # characters; a longer answer is no solution of an exercise and could stall the parser
_DEEPEST = 90  # brackets in each other; the parser of some versions gives up, or worse, above a hundred
# A fence may stand in a list, behind the item's mark.
_OPENS = re.compile(r"([ \t]*+(?:(?:[-*+]|\d{1,9}[.)])[ \t]++)*+)(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)[^`]*+")
_CLOSES = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[ \t]*+")
_TRIES = 100  # how often an unfenced answer is parsed
_PARSED = 1_000_000  # characters that are parsed in all of these tries
_PYTHON = {"", "python", "python3", "py", "python-repl"}
_STARTS = re.compile(r"(?:async\s+def|def|class|import|from|@)[\s\w]|[A-Za-z_]\w*\s*=(?!=)")


@dataclass(frozen=True, slots=True)
class ExtractedProgram:
    """Holds a program, ready to run, and how it was found."""

    code: str
    how: How


def extract(answer: str, beginning: str = "", entry_point: str | None = None) -> ExtractedProgram | None:
    """Return the program in an answer, or None when there is none.

    Args:
        answer: The model's text.
        beginning: The code that the model was asked to complete, if any. It stands before the program, whose
            imports and helper functions it holds.
        entry_point: The function that is wanted. A block that defines it is preferred.
    """
    answer = _without_thinking(answer).replace("\r\n", "\n")
    if len(answer) > _MOST or not answer.strip():
        return None
    blocks = _blocks(answer)
    if blocks:
        return _placed(_best(blocks, entry_point), beginning, "fenced")
    if beginning and (body := _body(answer)) and _parses(beginning + body):
        return ExtractedProgram(beginning + body, "body")
    if (code := _bare(answer)) is not None:
        return _placed(code, beginning, "bare")
    return None


def closed(beginning: str) -> str:
    """Return the beginning as a program of its own: a definition without a body gets one that does nothing."""
    if _parses(beginning):
        return beginning
    head = beginning.rstrip()
    last = head.rpartition("\n")[2]
    return f"{head}\n{last[: len(last) - len(last.lstrip())]}    pass\n"


def _without_thinking(text: str) -> str:
    """Return a text without the model's thinking; the indentation of its first line stays."""
    answer = split_thinking(text)[1]
    if answer == text:
        return text
    line = text[: max(0, text.rfind(answer))].rpartition("\n")[2]
    return (line if line.isspace() else "") + answer


def _blocks(answer: str) -> list[str]:
    """Return the content of every fence that is marked as Python, or not marked; the last one may be open.

    Lines of an indented fence, as in a list, lose the indentation that all of them share with it.
    """
    blocks: list[str] = []
    fence: re.Match[str] | None = None
    lines: list[str] = []
    for line in answer.split("\n"):
        if fence is None:
            fence, lines = _OPENS.fullmatch(line), []
        elif (end := _CLOSES.fullmatch(line)) and end[1][0] == fence[2][0] and len(end[1]) >= len(fence[2]):
            blocks += _block(fence, [*lines, ""])
            fence = None
        else:
            lines.append(line)
    if fence is not None:
        blocks += _block(fence, lines)
    return blocks


def _block(fence: re.Match[str], lines: list[str]) -> list[str]:
    if fence[3].lower() not in _PYTHON:
        return []
    margins = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    margin = min(len(os.path.commonprefix(margins)), len(fence[1]))
    code = "\n".join(line[margin:] if line.strip() else line.strip(" \t") if margin else line for line in lines)
    return [code] if code.strip() else []


def _best(blocks: list[str], entry_point: str | None) -> str:
    """Return the first block that defines the entry point, else all blocks if they parse together, else the first."""
    for block in blocks:
        if entry_point and _defines(block, entry_point) and _parses(block):
            return block
    together = "\n".join(blocks)
    return together if _parses(together) else blocks[0]


def _placed(code: str, beginning: str, how: How) -> ExtractedProgram:
    """Return code below the beginning: as a body if it is indented like one, else as definitions of its own."""
    if not beginning:
        return ExtractedProgram(code, how)
    below = beginning.rstrip("\n") + "\n" + code
    if code[:1] in " \t" and _parses(below):
        return ExtractedProgram(below, "body")
    apart = closed(beginning).rstrip("\n") + "\n\n\n" + code
    # `from __future__` must come first.
    return ExtractedProgram(apart if _parses(apart) or not _parses(code) else code, how)


def _body(answer: str) -> str:
    """Return the indented lines at the start of an answer."""
    kept: list[str] = []
    for line in answer.lstrip("\n").split("\n"):
        if line.strip() and line[0] not in " \t":
            break
        kept.append(line)
    body = "\n".join(kept)
    return body.rstrip() + "\n" if body.strip() else ""


def _bare(answer: str) -> str | None:
    """Return the runs of lines that start like a definition, an import or an assignment, and that parse."""
    lines = answer.split("\n")
    # A program begins and stops at the margin.
    margins = [place for place, line in enumerate(lines) if line.strip() and line[0] not in " \t)]}"]
    runs: list[str] = []
    done, tries, parsed = 0, _TRIES, 0
    for start in margins:
        end = len(lines)
        while start >= done and tries and parsed < _PARSED and end > start and _STARTS.match(lines[start]):
            tries -= 1
            code = "\n".join(lines[start:end])
            parsed += len(code)
            wrong = _error_line(code)
            if wrong is None:
                runs.append(code)
                done = end
            else:  # stop before the line at the margin that holds, or leads to, what does not parse
                end = max((place for place in margins if start < place < min(end, start + wrong)), default=start)
    return "\n".join(runs) or None


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None


def _parses(code: str) -> bool:
    return _error_line(code) is None


def _error_line(code: str) -> int | None:
    """Return the first line, from 1, that does not parse; None when all of it does."""
    if _depth(code) > _DEEPEST:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def _depth(code: str) -> int:
    """Return the deepest nesting of brackets or unary operators; those in strings count too, on purpose."""
    depth = deepest = run = 0
    for character in code:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        run = run + 1 if character in "-+~" else 0
        deepest = max(deepest, depth, run)
    return deepest
