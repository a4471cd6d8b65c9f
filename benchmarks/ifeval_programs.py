"""Our programs for IFEval against lm-eval's, which are its authors', on real texts and on texts made to follow.

Run as: python benchmarks/ifeval_programs.py IFEVAL.jsonl TEXTS.jsonl... [--draws 25] [--json FILE]
        (needs langdetect and immutabledict; every text of the JSON Lines files with 20 characters is an answer)

Each instruction of each prompt is checked on some texts as they are, and on the same made to follow it (in capitals,
in quotes, without commas, ...), so that both verdicts occur. NLTK's trained splitter of sentences is used where it is
installed, else the untrained one; the last line says which.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.checks.ifeval import follows
from gra.core.files import write_json
from gra.core.run_folder import environment

Instruction = dict[str, Any]
# What makes a text follow an instruction, mostly, by the end of the instruction's id.
MADE: dict[str, Callable[[str, Instruction], str]] = {
    "english_lowercase": lambda text, _: text.lower(),
    "english_capital": lambda text, _: text.upper(),
    "no_comma": lambda text, _: text.replace(",", ""),
    "quotation": lambda text, _: f'"{text}"',
    "title": lambda text, _: f"<<a title>>\n{text}",
    "two_responses": lambda text, _: f"{text}\n******\nother",
    "repeat_prompt": lambda text, one: f"{one['prompt_to_repeat']}\n{text}",
    "end_checker": lambda text, one: f"{text} {one['end_phrase']}",
    "postscript": lambda text, one: f"{text}\n{one['postscript_marker']} more",
    "number_paragraphs": lambda text, _: text.replace("\n\n", "\n***\n"),
    "number_bullet_lists": lambda text, one: "\n".join(f"* {s}" for s in text.split(". ")[: one["num_bullets"]]),
    "number_highlighted_sections": lambda text, _: " ".join(f"*{s}*" for s in text.split(".")[:5]),
    "multiple_sections": lambda text, one: "\n".join(
        f"{one['section_spliter']} {n}\n{s}" for n, s in enumerate(text.split(".")[:6], 1)
    ),
    "number_placeholders": lambda text, _: f"{text} [a] [b] [c] [d]",
    "json_format": lambda text, _: f"```json\n{json.dumps({'a': text})}\n```",
    "constrained_response": lambda text, _: "My answer is yes.",
    "nth_paragraph_first_word": lambda text, one: "\n\n".join(
        [f"{one['first_word'].capitalize()} x"] * one["num_paragraphs"]
    ),
}


def lines(file: Path) -> Iterator[Any]:
    """The objects of a JSON Lines file, also gzipped."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    yield from (json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip())


def texts(value: Any) -> Iterator[str]:
    """Every text of 20 characters in an object."""
    if isinstance(value, str) and len(value.strip()) >= 20:
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def their_programs() -> tuple[dict[str, Any], str]:
    """lm-eval's programs by instruction, and which splitter of sentences they use."""
    import langdetect
    import nltk
    from nltk.tokenize import TreebankWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    langdetect.DetectorFactory.seed = 0
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        nltk.download = lambda *_, **__: None
        from lm_eval.tasks.ifeval import instructions_util

        splitter, words = PunktSentenceTokenizer(), TreebankWordTokenizer()
        instructions_util.count_sentences = lambda text: len(splitter.tokenize(text))
        nltk.word_tokenize = lambda text: [word for part in splitter.tokenize(text) for word in words.tokenize(part)]
        name = "untrained"
    else:
        name = "trained"
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    return INSTRUCTION_DICT, name


def main(
    ifeval: Path,
    sources: list[Path],
    draws: int = 25,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one row a kind."""
    programs, splitter = their_programs()
    answers = [text for source in sources for row in lines(source) for text in texts(row)]
    luck = random.Random(0)
    counts: dict[str, Counter[str]] = {}
    for row in lines(ifeval):
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            theirs = programs[name](name)
            theirs.build_description(**given)
            found = counts.setdefault(name, Counter())
            make = MADE.get(name.partition(":")[2])
            for text in luck.sample(answers, draws):
                for answer in [text, make(text, given)] if make else [text]:
                    verdict = bool(answer.strip()) and bool(theirs.check_following(answer))
                    found["checked"] += 1
                    found["followed"] += verdict
                    found["agreed"] += verdict == follows({"id": name, **given}, answer)
    print("| instruction | checked | followed, by lm-eval's | agreed |\n|---|---|---|---|")
    total = sum(counts.values(), Counter[str]())
    for name, found in [*sorted(counts.items()), ("all", total)]:
        share = found["agreed"] / found["checked"]
        print(f"| {name} | {found['checked']} | {found['followed']} | {100 * share:.1f} % |")
    print(f"\n{len(answers)} texts; splitter of sentences: {splitter}")
    if json_file:
        write_json(json_file, {"counts": counts, "splitter": splitter, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
