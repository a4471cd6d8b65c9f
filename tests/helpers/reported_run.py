"""Small run folders made of real files, for the tests of the report and of `gra explain`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from gra.core.files import write_json
from gra.core.run_folder import RunFolder
from gra.core.stored.release_0_1 import read_rejected_at
from gra.core.types import (
    CHECKS,
    DIMENSIONS,
    Candidate,
    ContaminationMatch,
    InstructionReview,
    Review,
    Ruling,
    State,
    Usage,
)
from gra.data.export import export
from gra.evaluation.compare.compare import compare
from gra.evaluation.results import write_records

HOSTILE = (
    "</script><script>alert(1)</script><img src=https://evil.example/x.png onerror=alert(2)> {{ 7 * 7 }} [red]x[/red]"
)
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202eback"


def review(name: str, score: float, comment: str = "") -> Review:
    return Review(name, dict.fromkeys(DIMENSIONS, score), score, score, comment)


def candidate(index: int, state: State, reason: str, **more: Any) -> Candidate:
    begun: dict[str, Any] = {
        "id": f"r1-{index:06d}", "round": 1, "index": index, "domain": ("qa", "math", "coding")[index % 3],
        "state": state, "reason": reason, "rejected_at": read_rejected_at(reason),
        "generator": "ada", "reviewers": ("ben", "cy"), "adjudicator": "dot",
        "parents": ("qa-1", "qa-2"), "keywords": ("tide", "owl", "bread"), "instruction": f"Instruction {index}.",
        "usage": {"generator": Usage(2, 100, 20), "reviewer": Usage(4, 300, 8)}, "calls": ("k1", "k2"),
    }  # fmt: skip
    return Candidate(**{**begun, **more})


def reviewed(index: int, state: State, reason: str, scores: tuple[float, float], **more: Any) -> Candidate:
    fields: dict[str, Any] = {
        "response": f"Response {index}.",
        "checks": (InstructionReview("ben", dict.fromkeys(CHECKS, 0.9), ()), InstructionReview("cy", {}, ())),
        "reviews": tuple(review(name, score) for name, score in zip(("ben", "cy"), scores, strict=True)),
        "mean": sum(scores) / 2,
        "std": abs(scores[0] - scores[1]) / 2,
    }
    return candidate(index, state, reason, **{**fields, **more})


CANDIDATES = [
    reviewed(0, State.ACCEPTED, "reviewers agree", (8.0, 7.0), neighbour="qa-1", similarity=0.41),
    reviewed(1, State.ACCEPTED, "adjudicator kept it", (9.5, 4.5), disputed=True,
             ruling=Ruling("dot", dict.fromkeys(DIMENSIONS, 7.25), 7.25, "Fine after all.", True)),
    reviewed(2, State.REJECTED, "response: mean score too low", (2.0, 3.0), response=HOSTILE, instruction=HOSTILE),
    reviewed(3, State.REJECTED, "adjudicator rejected it", (9.0, 4.0), disputed=True,
             ruling=Ruling("dot", dict.fromkeys(DIMENSIONS, 3.0), 3.0, "Wrong.", False)),
    candidate(4, State.REJECTED, "instruction: clear",
              checks=(InstructionReview("ben", {"reasonable": 0.9, "complete": 0.8, "clear": 0.11}, ("clear",)),)),
    reviewed(5, State.DUPLICATE, "too similar to r1-000000", (7.0, 7.0), neighbour="r1-000000", similarity=0.97),
    reviewed(6, State.CONTAMINATED, "repeats a test item of arc", (7.0, 7.0),
             contamination=ContaminationMatch("contaminated", 2, "arc", "arc-7", "ngram", 0.9, 13, HOSTILE, HOSTILE)),
    reviewed(7, State.SURPLUS, "accepted after the round was full", (7.0, 8.0)),
    candidate(8, State.FAILED, "generator ada: answer cut off at the length limit", keywords=(), instruction=""),
]  # fmt: skip
SEEDS = [
    Candidate(f"vanilla-qa-{i}", 0, i, "qa", State.ACCEPTED, "seed", arm="vanilla", parents=(f"qa-{i}",),
              instruction=f"Seed question {i}?", response=f"Seed answer {i}.")
    for i in range(1, 6)
]  # fmt: skip
CARD = {
    "name": "x", "arm": "gra", "states": {s.value: 0 for s in State}, "models": [], "shared_weights": {}, "seeds": "s",
    "reviewers": [], "committee_auc": None, "prompts": {},
}  # fmt: skip
MODEL = {
    "name": "tiny-model",
    "identity": "sha256:abc123",
    "licence": "apache-2.0",
    "origin": "package",
    "path": "tiny",
}
FUNNEL = {
    "candidates": 9, "instruction written": 8, "response written": 7, "scored": 7, "mean passed": 6, "disputed": 2,
    "kept by adjudicator": 1, "accepted": 2,
}  # fmt: skip
GRA_FACTS: dict[str, Any] = {
    "name": "test-gra", "arm": "gra", "funnel": FUNNEL, "stopped": ["candidate limit"],
    "states": dict(Counter(c.state.value for c in CANDIDATES)), "mean_score": 6.5, "faults": {},
    "tokens_by_role": {
        "generator": {"calls": 18, "prompt_tokens": 9001, "completion_tokens": 180, "cached_tokens": 0},
        "reviewer": {"calls": 36, "prompt_tokens": 27000, "completion_tokens": 72, "cached_tokens": 13500},
    },
    "models": {"tiny-model": MODEL}, "missing_models": {"gone-model": "its package is gone; install it"},
    "prompts": {"response": "f" * 64},
    "members": {
        "ada": {"model": "tiny-model", "ask": "integers", "roles": ["generator"]},
        "ben": {"model": "tiny-model", "ask": "yes_no", "roles": ["reviewer"]},
        "cy": {"model": "tiny-model", "ask": "likelihood", "roles": ["reviewer"]},
        "dot": {"model": "tiny-model", "ask": "integers", "roles": ["adjudicator"]},
    },
    "reviewers": {
        "ben": {"auc": 0.875, "good": [8.0, 7.0, 9.0, 4.0], "bad": [3.0, 5.0, 2.0, 1.0], "unanswered": 3},
        "cy": {"auc": 0.5, "good": [0.2, 0.4], "bad": [0.4, 0.2], "unanswered": 0},
    },
    "committee_auc": 0.9375, "shared_weights": {"tiny-model": ["ada", "ben", "cy", "dot"]},
}  # fmt: skip


def write_arm(folder: Path, candidates: list[Candidate], facts: dict[str, Any]) -> None:
    RunFolder(folder).create()
    (folder / "recipe.resolved.yaml").write_text("review:\n  accept_mean: 6.5   # line 3\n  dispute_std: 2.0\n")
    RunFolder(folder).record("synthesis", facts, export(folder, candidates, CARD))


def write_log(run: Path, events: list[dict[str, Any]]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(event, ensure_ascii=False) for event in events]
    (run / "log.jsonl").write_text("\n".join(lines) + '\n{"time": 99, "ev', encoding="utf-8")


def begin(time: float, name: str, detail: str = "") -> dict[str, Any]:
    return {"time": time, "event": "note", "text": f"▸ {name}" + (f": {detail}" if detail else "")}


def end(began: float, ended: float, name: str, outcome: str = "done") -> dict[str, Any]:
    return {"time": ended, "event": "stage", "name": name, "began": began, "ended": ended, "outcome": outcome}


def ended(time: float, index: int, state: str) -> dict[str, Any]:
    return {"time": time, "event": "candidate", "arm": "test-gra", "id": f"r1-{index:06d}", "state": state, "tokens": 1}


def evaluated(run: Path, key: str, right: dict[str, int], ended: float) -> Path:
    """A finished evaluation on 40 items a task, of which the first few are right."""
    rows = [
        {"task": task, "item": f"{task}-{i}", "category": ("lists", "json")[i % 2] if task == "forms" else "all",
         "question": f"Question {i}? {HOSTILE}", "item_hash": "h", "target_hash": "t", "prompt_hash": "p",
         "output": f"{key} answers {i}. {HOSTILE}" if task == "forms" else None, "score": float(i < count)}
        for task, count in right.items() for i in range(40)
    ]  # fmt: skip
    folder = RunFolder(run / "eval" / key).create()
    tasks = {
        "forms": {"kind": "instructions", "metric": "pass", "stopped": ended, "mean_tokens": 17.25},
        "facts": {"kind": "likelihood", "metric": "acc", "stopped": None, "mean_tokens": None},
    }
    results = {
        "model": {"name": key},
        "suite": {"name": "suite", "digest": "d"},
        "decoding": {},
        "fingerprint": key,
        "tasks": tasks,
    }
    write_json(folder / "results.json", results)
    folder.record("evaluation", {"fingerprint": key}, [write_records(folder.path, rows), folder / "results.json"])
    return folder.path


def compare_students(run: Path) -> dict[str, Any]:
    """The comparison that the evaluation itself writes: gra far better than untuned, worse than vanilla on forms."""
    untuned = evaluated(run, "untuned", {"forms": 0, "facts": 20}, 0.0)
    vanilla = [evaluated(run, f"vanilla-seed{k}", {"forms": 36 - k, "facts": 20}, 0.975) for k in (0, 1)]
    gra = evaluated(run, "gra-seed0", {"forms": 22, "facts": 20}, 0.85)
    arms = {"untuned": untuned, "vanilla": vanilla, "gra": gra}
    cost = {"unit": "tokens x billions of parameters", "generation": 800.4, "review": 400.0, "preparation": 34.2}
    made = {"of": None, "part": "train", "wanted": 3, "available": 5}
    data = {
        "vanilla": made | {"rows": 3, "cost": dict.fromkeys(cost, 0.0) | {"unit": cost["unit"], "total": 0.0}},
        "gra": made | {"rows": 2, "available": 2, "cost": cost | {"total": 1234.6}},
    }
    notes = ["arms with fewer rows than the experiment wants: gra 2 of 3."]
    return compare(arms, "vanilla", 0.05, run / "compare", data=data, notes=notes).to_json()


KILLED_AND_RESUMED = [
    begin(1000.0, "check", "recipe.yaml"), end(1000.0, 1002.0, "check"),
    begin(1002.0, "engines", "tiny-model"), end(1002.0, 1012.0, "engines"),
    begin(1012.0, "synthesis", "test-gra"), ended(1020.0, 0, "accepted"), ended(1030.0, 2, "rejected"),
    # killed here, and started again two hours later
    begin(8230.0, "check", "recipe.yaml"), end(8230.0, 8231.0, "check"),
    begin(8231.0, "engines", "tiny-model"), end(8231.0, 8241.0, "engines"),
    begin(8241.0, "synthesis", "test-gra"), ended(8241.5, 0, "accepted"), ended(8250.0, 1, "accepted"),
    end(8241.0, 8261.0, "synthesis"),
    {"time": 8261.0, "event": "engine", "name": "tiny-model", "calls": 30, "prompt_tokens": 20000,
     "cached_tokens": 5000, "completion_tokens": 111},
    begin(8262.0, "train", "gra-seed0"), end(8262.0, 8302.0, "train"),
    begin(8303.0, "compare"),
]  # fmt: skip


def write_run(run: Path) -> Path:
    """A whole run: two arms, a trained student, a comparison, a log with a resume."""
    write_arm(run / "arms" / "gra", CANDIDATES, GRA_FACTS)
    write_arm(run / "arms" / "vanilla", SEEDS, {"name": "test-vanilla", "arm": "vanilla"})
    student = run / "models" / "gra-seed0"
    log = [{"loss": 3.5 - s / 10, "step": s} for s in range(1, 11)] + [{"eval_loss": 2.718, "step": 10}]
    write_json(student / "checkpoints" / "checkpoint-9" / "trainer_state.json", {"log_history": log[:9]})
    write_json(student / "checkpoints" / "checkpoint-10" / "trainer_state.json", {"log_history": log})
    metrics = {
        "steps": 10, "epochs": 2.5, "seed": 0, "loss_first": 3.4, "loss": 2.55, "eval_loss": 2.718, "seconds": 40.25,
        "tokens": 12345, "tokens_per_second": 306.7, "rows": {"read": 2, "train": {"rows": 2}, "heldout": {"rows": 0}},
        "stop": {"prompts": 12, "stopped": 11, "share": 0.9167},
    }  # fmt: skip
    write_json(student / "metrics.json", metrics)
    RunFolder(student).record("training", {"model": {**MODEL, "name": "student-model"}}, [student / "metrics.json"])
    compare_students(run)
    write_log(run, KILLED_AND_RESUMED)
    RunFolder(run).record("experiment", {"command": "gra run x.yaml", "arms": ["vanilla", "gra"]})
    return run
