"""What a person sees while GRA works, and the same for machines: progress on standard error, events in `log.jsonl`.

In a terminal there are live bars with rates and time left; elsewhere a line every few seconds.
Standard output is left to `--json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
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
        self._log_file = log_file
        self._live = self.console.is_terminal and not quiet
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
            with file.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")
        except OSError as error:  # what the disk must hold says so itself; a log must not hide that
            self._log_file = None
            self.note(f"! {file} ends here: {error.strerror}")

    def note(self, text: str, **fields: Any) -> None:
        """One line for the person and the log."""
        (self._bars.console if self._bars else self.console).print(text, markup=False, soft_wrap=True)
        self.event("note", text=text, **fields)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Time a part of the run; it appears in the report's timeline."""
        begun = time.time()
        self.note(f"▸ {name}{': ' + detail if detail else ''}")
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except Exception:
            outcome = "failed"
            raise
        finally:
            ended = time.time()
            self.event("stage", name=name, began=round(begun, 3), ended=round(ended, 3), outcome=outcome)
            self.note(f"  {name} {outcome} in {ended - begun:.1f} s")

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show progress for the time of the block."""
        self._begun, self._tasks = {}, {}
        if not self._live:
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
        with Progress(*columns, console=self.console) as self._bars:
            yield
        self._bars = None

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
        self.console.print(f"  {name} {done}/{total if total is not None else '?'} {detail}{left}", markup=False)


def read_events(log_file: Path) -> list[dict[str, Any]]:
    """The events of a run, over all its resumes; a last line that was cut off is left out."""
    events = []
    for line in log_file.read_text(encoding="utf-8").split("\n") if log_file.is_file() else ():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the process died while writing this line
    return events
