"""What a person sees while GRA works, and the same for machines: progress on standard error, events in `log.jsonl`.

In a terminal there are live bars with rates and time left, above them whatever board a stage shows; elsewhere a
line every few seconds. Standard output is left to `--json`.
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

_LINE_EVERY_S = 10.0


class View:
    """Progress and events of one run."""

    def __init__(self, log_file: Path | None = None, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self.board: Callable[[], RenderableType] | None = None  # drawn above the bars, again and again
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
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab+") as log:
                # A process that was killed while it wrote leaves half a line; this one begins on a line of its own.
                torn = log.tell() > 0 and log.seek(-1, os.SEEK_END) >= 0 and log.read(1) != b"\n"
                log.write(b"\n" * torn + line.encode() + b"\n")
        except OSError as error:  # what the disk must hold says so itself; a log must not hide that
            self._log_file = None
            self.note(f"! {file} ends here: {error.strerror}")

    def note(self, text: str, **fields: Any) -> None:
        """One line for the person and the log."""
        self.console.print(text, markup=False, soft_wrap=True)
        self.event("note", text=text, **fields)

    def line(self, text: str) -> None:
        """One line for a person without a live view."""
        if not self.live:
            self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Time a part of the run; it appears in the report's timeline."""
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
        """Show progress for the time of the block."""
        self._begun, self._tasks = {}, {}
        if not self.live:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
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
        """Move one bar, or print its line when the last one is old enough (and always at the end)."""
        if self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, detail=detail)
            self._bars.update(self._tasks[name], completed=done, total=total, detail=detail)
            return
        now = time.monotonic()
        self._begun.setdefault(name, now)
        if now - self._last_line.get(name, 0.0) < _LINE_EVERY_S and done != total:
            return
        self._last_line[name] = now
        elapsed = now - self._begun[name]
        left = f", about {elapsed / done * (total - done):.0f} s left" if total and done and done < total else ""
        of = total if total is not None else "?"
        self.console.print(f"  {name} {done}/{of} {detail}{left}", markup=False, soft_wrap=True)


def read_events(log_file: Path) -> list[dict[str, Any]]:
    """The events of a run, over all its resumes; a line that was cut off is left out."""
    events = []
    for line in log_file.read_text(encoding="utf-8", errors="replace").split("\n") if log_file.is_file() else ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the process died while writing this line
        if isinstance(event, dict) and {"time", "event"} <= event.keys():
            events.append(event)
    return events


def duration(seconds: float) -> str:
    """A time a person can read, on one line: 8.3 s, 2 min 05 s, 3 h 12 min."""
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"
