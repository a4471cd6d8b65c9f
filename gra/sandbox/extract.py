"""Find the program in a model's answer: in a fence, bare, or as the body of a function whose beginning was given.

Nothing is run here, and no answer is mended: text is chosen, never changed, save that a body is put below its
beginning and that what follows the last complete statement of an unfenced answer is left out.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Literal

How = Literal["fenced", "bare", "body"]

EXTRACT_VERSION = 1  # raise when the same answer would give another program
_MOST = 100_000  # characters; a longer answer is no solution of an exercise and could stall the parser
_DEEPEST = 90  # brackets in each other; the parser of some versions gives up, or worse, above a hundred
_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_TRIES = 100  # how often an unfenced answer is parsed
_PYTHON = {"", "python", "python3", "py", "python-repl"}
_STARTS = re.compile(r"(?:async\s+def|def|class|import|from|@)[\s\w]|[A-Za-z_]\w*\s*=(?!=)")
_THINKING = re.compile(r"\A.*?</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExtractedProgram:
    """What was found, ready to run, and how."""

    code: str
    how: How


def extract(answer: str, beginning: str = "", entry_point: str | None = None) -> ExtractedProgram | None:
    """The program in an answer, or None when there is none.

    Args:
        answer: what the model said.
        beginning: the code that the model was asked to complete, if any; it stands before what is found, so that
            its imports and helper functions are there.
        entry_point: the function that is wanted; a block that defines it is preferred.
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
    """The beginning as a program of its own: a definition that ends without a body gets one that does nothing."""
    if _parses(beginning):
        return beginning
    head = beginning.rstrip()
    last = head.rpartition("\n")[2]
    return f"{head}\n{last[: len(last) - len(last.lstrip())]}    pass\n"


def _best(blocks: list[str], entry_point: str | None) -> str:
    """The first block that defines what is wanted; else all of them if they make one program; else the first."""
    for block in blocks:
        if entry_point and _defines(block, entry_point) and _parses(block):
            return block
    together = "\n".join(blocks)
    return together if _parses(together) else blocks[0]


def _placed(code: str, beginning: str, how: How) -> ExtractedProgram:
    """Code below the beginning: as a body if it is indented like one, as definitions of its own otherwise."""
    if not beginning:
        return ExtractedProgram(code, how)
    below = beginning.rstrip("\n") + "\n" + code
    if code[:1] in " \t" and _parses(below):
        return ExtractedProgram(below, "body")
    apart = closed(beginning).rstrip("\n") + "\n\n\n" + code
    # `from __future__` must come first.
    return ExtractedProgram(apart if _parses(apart) or not _parses(code) else code, how)


def _body(answer: str) -> str:
    """The lines at the start of an answer that are indented; the first that is not ends the body."""
    kept: list[str] = []
    for line in answer.lstrip("\n").split("\n"):
        if line.strip() and line[0] not in " \t":
            break
        kept.append(line)
    body = "\n".join(kept)
    return body.rstrip() + "\n" if body.strip() else ""


def _bare(answer: str) -> str | None:
    """Every run of lines that starts like a definition, an import or an assignment and parses; prose falls out."""
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
    """The line, from 1, at which code stops being Python; None when all of it is."""
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
    """How deep brackets, or operators that take what follows, are nested at most; strings count too, on purpose."""
    depth = deepest = run = 0
    for character in code:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        run = run + 1 if character in "-+~" else 0
        deepest = max(deepest, depth, run)
    return deepest
