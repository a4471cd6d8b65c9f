"""Show progress on standard error, and write events to `log.jsonl`.

A terminal has live bars with rates and time left, below the board of a stage. Elsewhere a line is printed every few
seconds. Standard output is left to `--json`. Foreign text is printed through `gra.core.text.plain_text`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gra.core.files import make_folder, open_plain
from gra.core.stored.reader import check_type
from gra.core.stored.types import EVENTS, Event
from gra.core.text.plain_text import printable, printable_line

_LINE_EVERY_S = 10.0


class View:
    """Progress and events of one run."""

    def __init__(self, log_file: Path | None = None, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self.board: Callable[[], RenderableType] | None = None  # drawn above the bars at every refresh
        self._log_file = log_file
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event to the log."""
        if (file := self._log_file) is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, ensure_ascii=False)
        encoded = line.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes its JSON escape
        try:
            make_folder(file.parent)
            with open_plain(file, "ab+") as log:
                # A process that was killed during a write leaves half a line; the next event begins a new one.
                torn = log.seek(0, os.SEEK_END) > 0 and log.seek(-1, os.SEEK_END) >= 0 and log.read(1) != b"\n"
                log.write(b"\n" * torn + encoded + b"\n")
        except OSError as error:  # a full disk is reported by the writers of results; the log must not hide that
            self._log_file = None
            self.note(f"! {file} ends here: {error.strerror}")

    def note(self, text: str, **fields: Any) -> None:
        """Print a line and log it."""
        self._print(text)
        self.event("note", text=text, **fields)

    def line(self, text: str) -> None:
        """Print a line where there is no live view."""
        if not self.live:
            self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(printable(text), markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Time a part of the run and log it, for the timeline of the report."""
        begun, since = time.time(), time.monotonic()
        self.note(f"▸ {name}{': ' + detail if detail else ''}")
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except Exception:
            outcome = "failed"
            raise
        finally:
            seconds = time.monotonic() - since  # the clock may have been set in between
            self.event("stage", name=name, began=round(begun, 3), ended=round(begun + seconds, 3), outcome=outcome)
            self.note(f"  {name} {outcome} in {seconds:.1f} s")

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show progress during the block."""
        self._begun, self._tasks = {}, {}
        if not self.live:
            yield
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )
        self._bars = Progress(*columns, console=self.console)
        try:
            with Live(console=self.console, get_renderable=self._screen, refresh_per_second=4):
                yield
        finally:
            self._bars = self.board = None

    def _screen(self) -> RenderableType:
        assert self._bars is not None
        return Group(self.board(), self._bars) if self.board is not None else self._bars

    def progress(self, name: str, done: int, total: int | None, detail: str = "") -> None:
        """Move one bar; without bars, print a line every few seconds and at the end."""
        if self._bars is not None:
            if name not in self._tasks:
                shown = printable_line(name)
                self._tasks[name] = self._bars.add_task(shown, total=total, detail="")
            self._bars.update(self._tasks[name], completed=done, total=total, detail=printable_line(detail))
            return
        now = time.monotonic()
        self._begun.setdefault(name, now)
        if now - self._last_line.get(name, 0.0) < _LINE_EVERY_S and done != total:
            return
        self._last_line[name] = now
        elapsed = now - self._begun[name]
        left = f", about {elapsed / done * (total - done):.0f} s left" if total and done and done < total else ""
        of = total if total is not None else "?"
        self._print(f"  {printable_line(name)} {done}/{of} {detail}{left}")


def read_events(log_file: Path) -> list[dict[str, Any]]:
    """Read the events of a run, over all its resumes; a line that was cut off is left out.

    Raises:
        DataError: a line is whole, and no event.
    """
    events: list[dict[str, Any]] = []
    if not log_file.is_file():
        return events
    for number, line in enumerate(log_file.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the process died during the write of this line
        kind = event.get("event") if isinstance(event, dict) else None
        where = f"{log_file}, line {number},"
        events.append(check_type(event, EVENTS.get(kind, Event) if isinstance(kind, str) else Event, where))
    return events


def duration(seconds: float) -> str:
    """Format a time in seconds on one line: 8.3 s, 2 min 05 s, 3 h 12 min."""
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"
