"""Read the stages of a run and their times from its log, over all its resumes.

A stage is logged when it ends, and announced by a note ("▸ name: detail") when it begins. An announcement
without an end belongs to a killed process, or to the process that writes this report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gra.core.types import State

_ANNOUNCED = "▸ "
_SAME_MOMENT_S = 1.0

Outcome = Literal["done", "interrupted", "failed", "killed", "open"]


@dataclass(frozen=True)
class Span:
    """One stage in one process; seconds since the epoch."""

    name: str
    detail: str
    began: float
    ended: float
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return self.ended - self.began


@dataclass(frozen=True)
class Session:
    """Stages of one process; `pause` is the idle time in seconds before it, 0 for the first."""

    spans: list[Span]
    pause: float = 0.0

    @property
    def began(self) -> float:
        """Return when the first stage began."""
        return min(span.began for span in self.spans)

    @property
    def ended(self) -> float:
        """Return when the last stage ended."""
        return max(span.ended for span in self.spans)


@dataclass(frozen=True)
class Timeline:
    """All sessions of a run, and when its candidates ended: (time, arm's recipe name, state)."""

    sessions: list[Session] = field(default_factory=list)
    candidates: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def worked(self) -> float:
        """Return the seconds in which a process worked."""
        return sum(session.ended - session.began for session in self.sessions)

    def at(self, moment: float) -> float:
        """Convert a point in time to seconds of work since the run began, without pauses."""
        passed = 0.0
        for session in self.sessions:
            if moment <= session.ended:
                return passed + max(0.0, moment - session.began)
            passed += session.ended - session.began
        return passed

    def renamed(self, arms: Mapping[str, str]) -> Timeline:
        """Return the timeline with other names of arms."""
        return replace(self, candidates=[(time, arms.get(arm, arm), state) for time, arm, state in self.candidates])

    def by_stage(self) -> dict[str, float]:
        """Sum the seconds of each stage, in the order in which stages first began."""
        seconds: dict[str, float] = {}
        for session in self.sessions:
            for span in session.spans:
                seconds[span.name] = seconds.get(span.name, 0.0) + span.seconds
        return seconds

    def first_accepted(self) -> float | None:
        """Return the seconds of work from ready engines to the first accepted row; None when one is unknown."""
        up = [span.ended for s in self.sessions for span in s.spans if span.name == "engines"]
        rows = [time for time, _, state in self.candidates if state == State.ACCEPTED]
        return self.at(min(rows)) - self.at(min(up)) if up and rows and min(rows) >= min(up) else None


def read_timeline(events: Sequence[dict[str, Any]]) -> Timeline:
    """Build the sessions of a run from the events of its log."""
    events = _forward(events)
    sessions: list[Session] = []
    for span in _spans(events):
        last = sessions[-1] if sessions else None
        if last is None:
            sessions.append(Session([span]))
        elif _restarted(last, span):
            sessions.append(Session([span], max(0.0, span.began - last.ended)))
        else:
            last.spans.append(span)
    return Timeline(sessions, _candidates(events))


def _forward(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct the times of events for a clock that was set back: later lines have later times."""
    moved: list[dict[str, Any]] = []
    last, shift = -math.inf, 0.0
    announced: dict[str, float] = {}  # by how much the beginning of each stage was moved
    for event in events:
        shift = max(shift, last - event["time"])
        last = event["time"] + shift
        changed = event | {"time": last}
        if event["event"] == "note" and event["text"].startswith(_ANNOUNCED):
            announced[event["text"].removeprefix(_ANNOUNCED).partition(": ")[0]] = shift
        elif event["event"] == "stage":
            by = announced.get(event["name"], shift)
            changed |= {"began": event["began"] + by, "ended": event["ended"] + by}
        moved.append(changed)
    return moved


def _spans(events: Sequence[dict[str, Any]]) -> list[Span]:
    """List every stage that began, in that order."""
    announced: Span | None = None
    open_spans: list[Span] = []
    ended: list[Span] = []
    for place, event in enumerate(events):
        if event["event"] == "note" and event["text"].startswith(_ANNOUNCED):
            if open_spans and open_spans[-1] is announced:  # it was cut off after the last event before this one
                open_spans[-1] = replace(announced, ended=max(announced.began, events[place - 1]["time"]))
            name, _, detail = event["text"].removeprefix(_ANNOUNCED).partition(": ")
            announced = Span(name, detail, event["time"], event["time"], "killed")
            open_spans.append(announced)
        elif event["event"] == "stage":
            same = [s for s in open_spans if s.name == event["name"] and abs(s.began - event["began"]) < _SAME_MOMENT_S]
            open_spans = [span for span in open_spans if span not in same[-1:]]
            detail = same[-1].detail if same else ""
            ended.append(Span(event["name"], detail, event["began"], event["ended"], event["outcome"]))
    if open_spans and events:
        last = max(event["time"] for event in events)
        newest = max([*open_spans, *ended], key=lambda span: span.began)
        if newest in open_spans:
            open_spans.remove(newest)
            ended.append(replace(newest, ended=max(last, newest.began), outcome="open"))
    return sorted([*open_spans, *ended], key=lambda span: span.began)


def _restarted(session: Session, span: Span) -> bool:
    """Whether a stage belongs to a new process: the last one broke off, or the same stage began again."""
    again = any((span.name, span.detail) == (known.name, known.detail) for known in session.spans)
    return again or session.spans[-1].outcome in ("interrupted", "failed", "killed")


def _candidates(events: Sequence[dict[str, Any]]) -> list[tuple[float, str, str]]:
    """List when each candidate ended; resumed runs report candidates again, and the first time counts."""
    ends: dict[tuple[str, str], tuple[float, str, str]] = {}
    for event in events:
        if event["event"] == "candidate":
            ends.setdefault((event["arm"], event["id"]), (event["time"], event["arm"], event["state"]))
    return sorted(ends.values())
