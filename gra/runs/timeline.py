"""Where the time went: the stages of a run from its log, over all its resumes.

A stage is logged when it ends, and announced by a note ("▸ name: detail") when it begins. An announcement
that nothing follows up belongs to a process that was killed, or to the one that is writing this report.
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
        """How long it took."""
        return self.ended - self.began


@dataclass(frozen=True)
class Session:
    """What one process did; `pause` is the time in seconds nobody worked before it, 0 for the first."""

    spans: list[Span]
    pause: float = 0.0

    @property
    def began(self) -> float:
        """When its first stage began."""
        return min(span.began for span in self.spans)

    @property
    def ended(self) -> float:
        """When its last stage ended."""
        return max(span.ended for span in self.spans)


@dataclass(frozen=True)
class Timeline:
    """All sessions of a run, and when its candidates ended: (time, arm's recipe name, state)."""

    sessions: list[Session] = field(default_factory=list)
    candidates: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def worked(self) -> float:
        """Seconds in which a process was at work."""
        return sum(session.ended - session.began for session in self.sessions)

    def at(self, moment: float) -> float:
        """A point in time as seconds of work since the run began, pauses left out."""
        passed = 0.0
        for session in self.sessions:
            if moment <= session.ended:
                return passed + max(0.0, moment - session.began)
            passed += session.ended - session.began
        return passed

    def renamed(self, arms: Mapping[str, str]) -> Timeline:
        """With arms called by other names than their recipes'."""
        return replace(self, candidates=[(time, arms.get(arm, arm), state) for time, arm, state in self.candidates])

    def by_stage(self) -> dict[str, float]:
        """Seconds per stage, in the order in which they first began."""
        seconds: dict[str, float] = {}
        for session in self.sessions:
            for span in session.spans:
                seconds[span.name] = seconds.get(span.name, 0.0) + span.seconds
        return seconds

    def first_accepted(self) -> float | None:
        """Seconds of work from the engines being up to the first accepted row; None when either is unknown."""
        up = [span.ended for s in self.sessions for span in s.spans if span.name == "engines"]
        rows = [time for time, _, state in self.candidates if state == State.ACCEPTED]
        return self.at(min(rows)) - self.at(min(up)) if up and rows and min(rows) >= min(up) else None


def read_timeline(events: Sequence[dict[str, Any]]) -> Timeline:
    """The sessions of a run from the events of its log."""
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
    """The events as if the clock had never been set back: what comes later in the log happened later."""
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
    """Every stage that began, in that order."""
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
    """Whether a stage belongs to a new process: the one before it broke off, or the same stage began once more."""
    again = any((span.name, span.detail) == (known.name, known.detail) for known in session.spans)
    return again or session.spans[-1].outcome in ("interrupted", "failed", "killed")


def _candidates(events: Sequence[dict[str, Any]]) -> list[tuple[float, str, str]]:
    """When each candidate ended; a resumed run reports recorded ones once more, and the first time counts."""
    ends: dict[tuple[str, str], tuple[float, str, str]] = {}
    for event in events:
        if event["event"] == "candidate":
            ends.setdefault((event["arm"], event["id"]), (event["time"], event["arm"], event["state"]))
    return sorted(ends.values())
