"""Find words and sentences that the style sheet in CONTRIBUTING.md rules out.

Run as: python tests/helpers/language.py gra/engines docs/scale.md
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = {".py": 20, ".md": 24}  # documentation has enumerations
# Private words of earlier versions, and what the field says instead (docs/design.md).
WORDS = {
    r"stor(?:y|ies)": "candidate",
    r"told|tells?|telling": "generate, say, report",
    r"workshops?|workbench(?:es)?|bench": "registry, context",
    r"hous(?:e|ing|ed)": "memory plan, project",
    r"seat(?:s|ed|ing)?": "role, verifier mode `score`",
    r"veto(?:es|ed)?": "verifier mode `filter`",
    r"shel(?:f|ves)": "vector file",
    r"exams?|sitting": "suite, task, evaluation run",
    r"cast|casts": "role assignment",
    r"worn|wears?": "has an adapter",
    r"planted|probes?|probing": "control item",
    r"rehears(?:al|als|e)": "mock run",
    r"evidence": "observed costs, contents",
    r"park(?:s|ed|ing)?": "unload, offload",
    r"whoever|whatever|nobody|somebody|everybody": "name the thing",
    r"so many|so much": "give the number or name",
    r"drafts?": "response, alternative (best of n)",
    r"fall(?:s|en)? asleep|live(?:s|d)? of": "say it plainly",
}
NAMES = {r"notebook": "recorder"}  # ruled out in identifiers only: Jupyter notebooks are notebooks
BRITISH = {
    r"synthesis(?:e|es|ed|ing)": "synthesize", r"optimis\w+": "optimiz-", r"recognis\w+": "recogniz-",
    r"licen[c]es?": "license", r"behaviours?": "behavior", r"colours?": "color", r"neighbours?": "neighbor",
    r"normalis\w+": "normaliz-", r"tokenis\w+": "tokeniz-", r"criticis(?:e|es|ed|ing)": "criticize",
    r"honour\w*": "honor", r"summaris\w+": "summariz-", r"organis\w+": "organiz-", r"favour\w*": "favor",
    r"centre[sd]?": "center", r"judgements?": "judgment", r"analys(?:e|es|ed|ing)\b": "analyze",
}  # fmt: skip
# Words that files of users hold (columns, recorded texts), that patterns must match, or that mean what they say.
ALLOWED = {
    "gra/ledger/": ("story",), "gra/core/stored/lineage.py": ("drafts",), "gra/core/stored/release_0_1.py": ("draft",),
    "gra/core/types.py": ("draft",), "gra/engines/outcomes.py": ("Draft202012Validator",),
    "gra/synthesis/prompts/__init__.py": ("stories",), "gra/synthesis/records.py": ("neighbour",),
    "gra/data/dedup/greedy.py": ("neighbours",),
    "gra/checks/instruction_constraints.py": ("tell",), "gra/checks/instruction_text.py": ("so much", "tell"),
    "gra/checks/request_kinds.py": ("tell", "draft"),
}  # fmt: skip
# Names in files that users have: columns, manifest keys, old recipe keys. They are written in code marks or as strings.
_CODE = re.compile(r"`[^`]*`|\{[^{}]*\}|https?://\S+|\b[\w./-]+\.(?:py|md|yaml|json|jinja|parquet)\b|\b\w+_\w+\b")
_SENTENCE = re.compile(
    r"(?<=[.!?])[*_)\"']*\s+(?=[A-Z*_`(\"'])|(?<=[:;])\s+|\n\s*\n|\n\s*[-*|#]\s|\n\s*\d+\.\s|\n#"
)  # a clause after a colon or semicolon counts as its own


NO_VERBS = frozenset(
    [
        "a",
        "all",
        "an",
        "as",
        "by",
        "cosine",
        "every",
        "for",
        "how",
        "it",
        "mean",
        "nanoseconds",
        "not",
        "of",
        "one",
        "other",
        "percentile",
        "that",
        "the",
        "this",
        "two",
        "two-sided",
        "what",
        "where",
        "which",
        "who",
    ]
)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of docstrings and comments of a Python file, or of the paragraphs of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        line = 1
        for block in re.split(r"(```.*?```|\n    .*?(?=\n\S))", text, flags=re.DOTALL):
            if not block.startswith(("```", "\n    ")):
                yield line, "\n".join("" if row.startswith("|") else row for row in block.split("\n"))
            line += block.count("\n")
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.lineno, first.value.value
    block: list[str] = []
    begun = last = 0
    trailing = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "# fmt:", "# noqa", "#!")):
            alone = not token.line[: token.start[1]].strip()
            if block and (token.start[0] != last + 1 or not alone or trailing):
                yield begun, " ".join(block)
                block = []
            trailing = not alone
            begun = begun if block else token.start[0]
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield begun, " ".join(block)


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every identifier of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of string constants with at least three words: messages to a person."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in documented:
            continue
        if len(node.value.split()) >= 3:
            yield node.lineno, node.value


def without_verb(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and first word of functions' docstrings that begin with no verb, as far as a list knows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (text := ast.get_docstring(node)):
            continue
        if any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        if (word := re.findall(r"[\w'-]+", text)[0]).lower() in NO_VERBS or word.endswith("'s"):
            yield node.lineno, word


def problems(path: Path) -> Iterator[str]:
    """Yield what the style sheet rules out in one file."""
    allowed = [word for place, words in ALLOWED.items() if place in path.as_posix() for word in words]
    yield from (found for found in _problems(path) if not any(f"`{word}`" in found for word in allowed))


def _problems(path: Path) -> Iterator[str]:
    texts = list(prose(path))
    for line, text in texts:
        plain = _CODE.sub("X", text)
        for pattern, better in (WORDS | BRITISH).items():
            for found in re.finditer(rf"\b(?:{pattern})\b", plain, re.IGNORECASE):
                yield f"{path}:{line}: `{found[0]}`: {better}"
        for sentence in _SENTENCE.split(plain):
            count = len(re.findall(r"[\w'’]+(?:[-/.]\w+)*", sentence))
            if count > MOST_WORDS[path.suffix]:
                yield f"{path}:{line}: {count} words: {' '.join(sentence.split())[:70]}"
    if path.suffix == ".py":
        for line, word in without_verb(path):
            yield f"{path}:{line}: the docstring begins with `{word}`: begin with a verb"
        for line, text in strings(path):
            for pattern, better in WORDS.items():
                for found in re.finditer(rf"\b(?:{pattern})\b", _CODE.sub("x", text), re.IGNORECASE):
                    yield f"{path}:{line}: `{found[0]}` in a message: {better}"
        for line, name in names(path):
            for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name):
                for pattern, better in (WORDS | NAMES).items():
                    if re.fullmatch(pattern, part.lower()):
                        yield f"{path}:{line}: name `{name}`: {better}"


def files(places: list[str]) -> Iterator[Path]:
    """Yield the Python and Markdown files at some places."""
    for place in map(Path, places):
        found = [place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.md")]
        yield from sorted(path for path in found if "_assets" not in path.parts)


if __name__ == "__main__":
    count = 0
    for file in files(sys.argv[1:] or ["gra", "docs", "README.md"]):
        for problem in problems(file):
            count += 1
            print(problem)
    print(f"{count} problems", file=sys.stderr)
