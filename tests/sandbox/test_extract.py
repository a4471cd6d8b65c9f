"""Finding the program in an answer: fences, prose, bare functions and bodies; nothing is run."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.sandbox.extract import ExtractedProgram, closed, extract

BEGINNING = 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """Sum."""\n'
BODY = "    c = a + b\n    return c\n"
WHOLE = f"def add(a, b):\n{BODY}"


def result(program: ExtractedProgram | None, *arguments: int) -> object:
    assert program is not None
    namespace: dict[str, object] = {}
    exec(program.code, namespace)
    return namespace["add"](*arguments)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (f"```python\n{WHOLE}```", "fenced"),
        (f"Here it is:\n\n```python\n{WHOLE}```\n\nIt adds.", "fenced"),
        (f"```\n{WHOLE}```", "fenced"),
        (f"```py title=a.py\n{WHOLE}```", "fenced"),
        (f"~~~python\n{WHOLE}~~~", "fenced"),
        (f"````python\n{WHOLE}````", "fenced"),
        (f"  ```python\n{WHOLE}  ```", "fenced"),
        (f"```python\n{WHOLE}", "fenced"),  # cut off, or never closed
        (f"```python\r\n{WHOLE}```".replace("\n", "\r\n"), "fenced"),
        (f"<think>\n```python\ndef add(a, b):\n    return 0\n```\n</think>\n```python\n{WHOLE}```", "fenced"),
        (f"```bash\npip install x\n```\n```python\n{WHOLE}```", "fenced"),
        (f"```python\nprint(add(1, 2))\n```\nwhere\n```python\n{WHOLE}```", "fenced"),
        (f"```python\nimport math\n```\n```python\n{WHOLE}```", "fenced"),
        (f"```python\n{BODY}```", "body"),
        (WHOLE, "bare"),
        (f"Sure. The function:\n{WHOLE}", "bare"),
        (f"from what you say, this is it:\n{WHOLE}\nThis function adds.", "bare"),
        (f"import math\n\n{WHOLE}\nNote that it adds two numbers.\nIt's fast (very", "bare"),
        (BODY, "body"),
        (f"{BODY}\n\ndef main():\n    print(add(1, 2)\n", "body"),
        (f"\n{BODY}\nThe function adds.", "body"),
        (f"{BEGINNING}{BODY}", "bare"),
        (f"```python\n{BEGINNING}{BODY}```", "fenced"),
        (f"```python\nfrom __future__ import annotations\n{WHOLE}```", "fenced"),
        # In a list, the code is indented as its fence is.
        ("1. The function:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n2. Done.", "fenced"),
        ("- ```python\n  def add(a, b):\n\n      return a + b\n  ```", "fenced"),
        ("* Code:\n\n\t```python\n\tdef add(a, b):\n\t\treturn a + b\n\t```", "fenced"),
        ("   ```python\n   def add(a, b):\n       return a + b", "fenced"),  # never closed
        ("1. Go on:\n   ```python\n       c = a + b\n       return c\n   ```", "body"),
        (f"So I add.\n</think>\n{BODY}", "body"),
    ],
)
def test_the_function_is_found(answer: str, how: str) -> None:
    program = extract(answer, BEGINNING, "add")
    assert result(program, 2, 3) == 5
    assert program is not None
    assert program.how == how


@pytest.mark.parametrize(
    "answer",
    ["", "  \n ", "I cannot do that.", "```json\n{}\n```", "```python\n\n```", "Import what you need.\nReturn 3.",
     "from the list\nimport duties are due", "x" * 200_000, "<think>def add(a, b):\n    return 1\n</think>"],
)  # fmt: skip
def test_nothing_to_run(answer: str) -> None:
    assert extract(answer, BEGINNING, "add") is None
    assert extract(answer) is None


def test_a_block_that_does_not_parse_is_still_the_answer() -> None:
    program = extract("```python\ndef add(a, b) return a\n```", BEGINNING, "add")
    assert program is not None
    assert "def add(a, b) return a" in program.code


def test_what_stands_before_the_answer_is_kept() -> None:
    beginning = "def twice(x):\n    return 2 * x\n\n\ndef add(a, b):\n"
    program = extract("```python\ndef add(a, b):\n    return twice(a) + b\n```", beginning, "add")
    assert result(program, 2, 1) == 5


@pytest.mark.parametrize(
    "beginning",
    ["", "x = 1\n", BEGINNING, "def f(x):\n", "class A:\n    def f(self):\n", "class A:\n\tdef f(self):\n\n"],
)
def test_a_beginning_is_closed(beginning: str) -> None:
    compile(closed(beginning), "<beginning>", "exec")
    assert closed(beginning).startswith(beginning.rstrip())


def test_helpers_in_other_blocks_are_kept_when_no_block_has_it_all() -> None:
    answer = "```python\ndef twice(x):\n    return 2 * x\n```\nThen\n```python\nadd = lambda a, b: twice(a) + b\n```"
    assert result(extract(answer, "", "add"), 2, 1) == 5


@pytest.mark.parametrize(
    "code",
    ["(" * 5_000, "[" * 90 + "]" * 90, "-" * 50_000 + "1", "not " * 20_000 + "x", "a." * 30_000 + "b",
     "lambda: " * 10_000 + "0", "1+" * 40_000 + "1", "x = " * 20_000 + "1", "if 1:\n" + " if 1:\n" * 99 + " x",
     "\0", "'''", "\\", "f'{" * 200, "\udc80 = 1", "".join(" " * n + "if 1:\n" for n in range(400))],
    ids=lambda code: repr(code[:12]),
)  # fmt: skip
def test_nothing_shakes_the_parser(code: str) -> None:
    for answer in (
        f"```python\ndef add(a, b):\n    return 1\nx = {code}\n```",
        f"def add(a, b):\n    return 1\n{code}",
    ):
        program = extract(answer, "", "add")
        assert program is None or isinstance(program.code, str)


@pytest.mark.parametrize(
    "answer",
    ["~" * 32_000, "`" * 32_000, "```" + " " * 32_000, "[" * 16_000, "1+1" * 2_000, "```\n" * 8_000,
     "def f():\n" * 9_000,
     "import os\nx = (\n" * 5_000, "</think>" * 4_000, "- " * 40_000 + "```", "1. " * 30_000],
    ids=lambda answer: repr(answer[:12]),
)  # fmt: skip
def test_reading_a_long_answer_is_bounded(answer: str) -> None:
    begun = time.process_time()
    extract(answer, "", "add")
    extract(answer, BEGINNING, "add")
    assert time.process_time() - begun < 2


@given(
    st.text(alphabet=st.sampled_from("`~\n def():=+-x'\"#pythonretu"), max_size=80), st.sampled_from(["", BEGINNING])
)
def test_any_answer_has_an_answer(answer: str, beginning: str) -> None:
    program = extract(answer, beginning, "add")
    assert program is None or program.how in ("fenced", "bare", "body")
    assert extract(answer, beginning, "add") == program
