"""Read the Markdown of an answer: code fences, list items, headings.

The readers go through the lines once, so a text of unclosed fences costs no more than any other.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_FENCE_LINE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([^`\n]*+)")
_ONE_LINE = re.compile(r"(`{3,}+)[ \t]*+(?:json\b|JSON\b)?(?P<code>[^`]*+)\1")
_BULLET = re.compile(r"(?:[-*+–—][ \t]++|[•‣◦▪▫●○■□·∙⁃➤➢►▶✓✔✅][ \t]*+)(?=\S)")
# 1. Foo, 1) Foo, (1) Foo, 1: Foo, 1 - Foo, 1.Foo, **1.** Foo, **1. Foo**, 1\. Foo, 1️⃣ Foo, ① Foo
_NUMBERED = re.compile(
    r"(?:\*\*|__)?(?:"
    r"\((?P<a>\d{1,6})\)(?:\*\*|__)?[ \t]*+(?=\S)"
    r"|(?P<b>\d{1,6})(?:\*\*|__)?"
    r"(?:\\?[.)．）:](?:\*\*|__)?(?:[ \t]++(?=\S)|(?=[^\W\d_]))|[ \t]++[-–—][ \t]++(?=[^\W\d_]))"
    r"|(?P<c>\d)\ufe0f?\u20e3[ \t]*+(?=\S)"
    r"|(?P<d>[①-⑳])[ \t]*+(?=\S))"
)
_HEADING = re.compile(r"#{1,6}[ \t]++|(?:\*\*|__)[^*_\n.!?]++(?:\*\*|__):?[ \t]*+\Z")
_LETTERED = re.compile(r"\(?[a-zA-Z]\)[ \t]++|[A-H]\.[ \t]++")
_QUOTE = re.compile(r"(?:[ \t]{0,3}+>[ \t]?+)*+")
_RULE = set("-*_+–— \t")


@dataclass(frozen=True, slots=True)
class Fence:
    """A closed block of fenced code: its language, without case, and its lines."""

    language: str
    code: str


@dataclass(frozen=True, slots=True)
class ListItem:
    """A line that begins with a bullet (`number` is None) or a number."""

    indent: int
    number: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its list mark, and what it is."""

    text: str
    heading: bool
    item: bool


def fences(text: str) -> list[Fence | str]:
    """Split a text into closed code fences and what stands between them.

    A fence that is never closed is text.
    """
    lines = text.split("\n")
    closed: dict[int, int] = {}
    opened: tuple[int, str] | None = None
    for place, line in enumerate(lines):
        found = _FENCE_LINE.fullmatch(line.rstrip())
        if found is None:
            continue
        if opened is None:
            opened = place, found[1]
        elif found[1][0] == opened[1][0] and len(found[1]) >= len(opened[1]) and not found[2].strip():
            closed[opened[0]] = place
            opened = None
    blocks: list[Fence | str] = []
    begun = 0
    for start, end in closed.items():
        blocks.append("\n".join(lines[begun:start]))
        info = _FENCE_LINE.match(lines[start])
        language = info[2].split()[:1] if info else []
        blocks.append(Fence("".join(language).casefold(), "\n".join(lines[start + 1 : end])))
        begun = end + 1
    blocks.append("\n".join(lines[begun:]))
    return blocks


def unfenced(text: str) -> str:
    """Return the code of a text that is one code fence, on several lines or on one; any other text as it is."""
    text = text.strip()
    blocks = [block for block in fences(text) if isinstance(block, Fence) or block.strip()]
    if len(blocks) == 1 and isinstance(blocks[0], Fence):
        return blocks[0].code
    found = _ONE_LINE.fullmatch(text)
    return found["code"] if found else text


def list_items(text: str) -> list[ListItem]:
    """List the items of the outermost lists of a text, in order.

    An item that is indented by two columns or more below another item is nested and left out.
    """
    found: list[ListItem] = []
    outer: int | None = None
    for line in text.splitlines():
        item = _item(line)
        if item is not None:
            if outer is None or item.indent < outer + 2:
                outer = item.indent
                found.append(item)
        elif line.strip() and not line.startswith((" ", "\t")):
            outer = None
    return found


def _item(line: str) -> ListItem | None:
    line = _unquoted(line)
    bare = line.lstrip()
    indent = len(line[: len(line) - len(bare)].expandtabs(4))
    if set(bare) <= _RULE:
        return None
    if _BULLET.match(bare):
        return ListItem(indent, None)
    if numbered := _NUMBERED.match(bare):
        shown = numbered["a"] or numbered["b"] or numbered["c"]
        return ListItem(indent, int(shown) if shown else int(unicodedata.numeric(numbered["d"])))
    return None


def unmarked_line(line: str) -> Line:
    """Return a line without the marks of quotation, list and heading."""
    text = _unquoted(line).strip()
    for pattern in (_BULLET, _NUMBERED, _LETTERED):
        if found := pattern.match(text):
            return Line(text[found.end() :], False, True)
    return Line(text, _HEADING.match(text) is not None, False)


def _unquoted(line: str) -> str:
    quote = _QUOTE.match(line)
    return line[quote.end() :] if quote else line
