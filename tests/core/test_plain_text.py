"""Foreign text in a terminal: what it would obey is replaced."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gra.core.progress import View
from gra.core.text.plain_text import printable, printable_line

ESCAPES = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egnp",
    "\r",
    "\x08",
    "\u2028",
    "\ud800",
    "\U000e0041",
    "\x7f",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_terminal_obeys_nothing(text: str) -> None:
    assert set(text) & set(printable(f"a{text}b")) <= set("[]2J0;owned31mgnp")
    assert "\ufffd" in printable(f"a{text}b")


def test_plain_text_stays() -> None:
    assert printable("naïve ☃\n\t日本語 🎉\r\n") == "naïve ☃\n\t日本語 🎉\n"
    assert printable_line(" two\n lines ") == "two lines"


@given(st.text(st.characters(), max_size=200))
def test_any_text_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert "\x1b" not in shown
    assert printable(shown) == shown


def test_view_shows_markup_and_escapes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = View()
    view.console = Console(file=out, highlight=False, width=200)
    view.note("[red]x[/red] \x1b[2J [/nothing]")
    view.progress("[bold]name[/] \x1b]0;t\x07", 1, 1, "[/closing]")
    view.line("\x9b31m")
    assert "[red]x[/red] \ufffd[2J [/nothing]" in out.getvalue()
    assert "[bold]name[/]" in out.getvalue()
    assert not {"\x1b", "\x9b", "\x07"} & set(out.getvalue())


def test_live_bars_show_markup_as_text() -> None:
    out = io.StringIO()
    view = View()
    view.console, view.live = Console(file=out, force_terminal=True, width=200, color_system=None), True
    with view.bars():
        view.progress("[/closing] \x1b]0;t\x07", 1, 2, "[bold]")
    assert "[/closing]" in out.getvalue()
    assert "\x1b]0" not in out.getvalue()
