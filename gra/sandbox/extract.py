"""Find the program in a model's answer: in a fence, without one, or as the body of a given beginning.

Nothing is run here and no answer is repaired. Text is chosen and not changed, except that a body is put below its
beginning. Of an unfenced answer, text after the last complete statement is left out.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Literal

How = Literal["fenced", "bare", "body"]

# Raise when the same answer would give another program.
EXTRACT_VERSION = 1
# In characters: a longer answer solves no exercise and could stall the parser.
_MOST = 100_000
# Brackets in each other: some versions of the parser fail or crash above a hundred.
_DEEPEST = 90
_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_TRIES = 100  # how often an unfenced answer is parsed
_PYTHON = {"", "python", "python3", "py", "python-repl"}
_STARTS = re.compile(r"(?:async\s+def|def|class|import|from|@)[\s\w]|[A-Za-z_]\w*\s*=(?!=)")
_THINKING = re.compile(r"\A.*?</think>", re.DOTALL)


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
    answer = _THINKING.sub("", answer).replace("\r\n", "\n")
    if len(answer) > _MOST or not answer.strip():
        return None
    blocks = [m[3] for m in _FENCE.finditer(answer) if m[2].lower() in _PYTHON and m[3].strip()]
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
    done, tries = 0, _TRIES
    for start in margins:
        end = len(lines)
        while start >= done and tries and end > start and _STARTS.match(lines[start]):
            tries -= 1
            wrong = _error_line("\n".join(lines[start:end]))
            if wrong is None:
                runs.append("\n".join(lines[start:end]))
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
