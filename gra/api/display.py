"""Show results in a terminal, as text and in a notebook."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod

from rich.console import Console, RenderableType
from rich.text import Text

from gra.core.text.plain_text import printable

_WIDTH = 100  # columns of the text in a notebook
_PAGE = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.3">{code}</pre>'


def plain(text: object) -> Text:
    """Return untrusted text for a table: its markup and control characters have no effect."""
    return Text(printable(text))


class Displayed(ABC):
    """Show a result in the same way in Rich, `print` and notebooks."""

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """Return what Rich prints."""

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH, force_jupyter=False, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip("\n")

    def _repr_html_(self) -> str:
        # Rich escapes the text, so markup in texts of models stays text.
        console = Console(file=io.StringIO(), width=_WIDTH, force_jupyter=False, record=True)
        console.print(self)
        return console.export_html(inline_styles=True, code_format=_PAGE)
