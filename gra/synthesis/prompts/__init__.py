"""Render the prompts: Jinja files beside this module, filled with the questions and hints below."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from gra.core.hashing import digest, file_digest
from gra.core.types import CHECKS, DIMENSIONS, FAULT_CHECKS

FOLDER = Path(__file__).parent

# Small models cannot infer a domain's content from its name.
HINTS = {
    "coding": "short programs, bugs, SQL, the shell; the answer is code or its output",
    "math": "arithmetic, algebra, geometry and word problems with one numeric answer",
    "qa": "questions about science, history, geography and everyday life with a factual answer",
    "reasoning": "puzzles, ordering, cause and effect, what follows from what",
    "role-play": "the assistant speaks as a given person in a given situation",
    "language": "grammar, rewriting, translation, word meanings",
    "creation": "short stories, poems, slogans, letters, product texts",
}
CHECK_QUESTIONS = {
    "reasonable": "Does this exercise make sense, and can an assistant that only reads and writes text do it?",
    "complete": "Is everything that is needed to answer it given in the exercise?",
    "clear": "Is the exercise clear, with only one way to understand what is asked?",
}
# Questions whose "yes" speaks against the exercise; the value of the check is the probability of "no".
FAULT_QUESTIONS = {
    "text_only": "Must one see a picture, hear a sound, use a website, or act in the real world to do it?",
    "impersonal": "Does the exercise ask about the own life, taste or feelings of the one who answers?",
    "self_contained": "Does the exercise speak of a text, file or picture that is not shown here?",
    "single": "Are two different exercises mixed up in it?",
}
SCORE_QUESTIONS = {
    "correctness": "Is the answer correct, and does it do what the exercise asks?",
    "clarity": "Is the answer clear and easy to understand?",
    "completeness": "Is the answer complete, with nothing missing that the exercise asked for?",
    "relevance": "Is the answer about this exercise and nothing else?",
    "coherence": "Do the parts of the answer fit together without contradiction?",
    "ethicality": "Is the answer honest and harmless?",
}
assert tuple(CHECK_QUESTIONS) == CHECKS
assert tuple(FAULT_QUESTIONS) == FAULT_CHECKS
assert tuple(SCORE_QUESTIONS) == DIMENSIONS


@cache
def _template(name: str) -> Template:
    environment = Environment(loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, keep_trailing_newline=False)
    return environment.get_template(f"{name}.jinja")


def render(name: str, **values: Any) -> str:
    """Fill in a prompt; a missing value is an error, never an empty text."""
    return _template(name).render(**values).strip()


def hint(domain: str) -> str:
    """Return what a domain is about; for a domain of the user's own, its name."""
    return HINTS.get(domain, domain)


def folder_digests(folder: str) -> dict[str, str]:
    """Return SHA-256 digests of the prompts in a subfolder; only recipes that use them are identified by them."""
    return {file.stem: file_digest(file) for file in sorted((FOLDER / folder).glob("*.jinja"))}


def digests() -> dict[str, str]:
    """Return digests of everything that a prompt is made of, for fingerprint, manifest and dataset card.

    Returns:
        SHA-256 by the name of each prompt file, and under `questions` that of this module's questions and hints.
    """
    files = {file.stem: file_digest(file) for file in sorted(FOLDER.glob("*.jinja"))}
    return files | {"questions": digest([HINTS, CHECK_QUESTIONS, FAULT_QUESTIONS, SCORE_QUESTIONS])}
