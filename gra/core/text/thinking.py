"""Separate the thinking of a reasoning model from its answer.

A server with a reasoning parser returns the two apart. Without one, the text holds both, divided by tags.
"""

from __future__ import annotations

import re

# `<think>` (Qwen, DeepSeek), `<thinking>`, `<thought>`, `<seed:think>` (Seed), `[THINK]` (Magistral), `◁think▷` (Kimi).
# A tag between backticks is quoted by the text and divides nothing.
_TAG = re.compile(
    r"(?:<(?P<angle>/?)(?:think|thinking|thought|seed:think)\s*>|\[(?P<square>/?)THINK\]|◁(?P<triangle>/?)think▷)"
    r"(?P<quote>`?)",
    re.IGNORECASE,
)


def split_thinking(text: str) -> tuple[str, str]:
    """Split a model's text into its thinking and its answer, in linear time.

    A closing tag without an opening one ends thinking that began in the prompt. An opening tag at the beginning of a
    line without a closing one begins thinking that was cut off; then no answer follows.

    Args:
        text: everything that the model wrote.

    Returns:
        The thinking and the answer, both stripped; `("", text)`, unchanged, where the text has no thinking.
    """
    thinking: list[str] = []
    answer: list[str] = []
    done = 0  # everything before is in one of the lists
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if tag["quote"] and text[max(tag.start() - 1, 0)] == "`":
            continue
        end = tag.start("quote")
        if not (tag["angle"] or tag["square"] or tag["triangle"]):
            opened = opened or tag
            continue
        if opened is None:
            thinking += [*answer, text[done : tag.start()]]
            answer = []
        else:
            answer.append(text[done : opened.start()])
            thinking.append(text[opened.start("quote") : tag.start()])
        done, opened = end, None
    if opened is not None and _begins_line(text, opened.start()):
        answer.append(text[done : opened.start()])
        thinking.append(text[opened.start("quote") :])
        done = len(text)
    if not done and not thinking:
        return "", text
    answer.append(text[done:])
    return "\n".join(filter(None, map(str.strip, thinking))), "".join(answer).strip()


def _begins_line(text: str, position: int) -> bool:
    while position and text[position - 1] in " \t":
        position -= 1
    return not position or text[position - 1] == "\n"
