"""An evaluation: one model is asked a suite, its answers are recorded, and the records are scored.

Asking and scoring are apart. Answers are recorded batch by batch, so a killed run loses only the batch in flight; what
is on record for the same model, wording and decoding is not asked again, whichever other items are asked beside it;
and changed checks, targets or tests score the recorded answers without the model.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gra.checks.ifeval import broken
from gra.config.suite import SuiteConfig
from gra.core.errors import DataError
from gra.core.files import write_json
from gra.core.hardware import gpu_count
from gra.core.hashing import digest
from gra.core.run_folder import RunFolder
from gra.evaluation.generate import Progress, Sitting, ask
from gra.evaluation.model import Device, ModelUnderTest
from gra.evaluation.results import RESULTS, Answer, AnswerStore, score, summarise, write_records
from gra.evaluation.scorers.answers import Broken
from gra.evaluation.scorers.code import judge, needs_permission, open_sandbox
from gra.evaluation.shards import ask_in_shards
from gra.evaluation.suite import Questions, read_exam, suite_digest
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

__all__ = ["ModelUnderTest", "evaluate", "fingerprints"]

_IN_MANIFEST = ("fingerprint", "model", "suite", "decoding", "seconds", "code_execution", "left_out")
_VERSION = 2  # raise when the same inputs would give other answers


def evaluate(
    suite: SuiteConfig,
    model: ModelUnderTest,
    output: Path,
    *,
    data_dir: Path | None = None,
    device: Device = "auto",
    progress: Progress = lambda task, done, total: None,
    permission: Permission | None = None,
    shards: int = 1,
    score_only: bool = False,
) -> dict[str, Any]:
    """Ask one model the whole suite and score its answers; what is on record is not asked again.

    Args:
        suite: what is asked.
        model: who is asked.
        output: the folder of this evaluation: answers/, records.parquet, results.json, manifest.json.
        data_dir: a folder that holds benchmark files.
        device: where the network runs.
        progress: called with (task, items done, items) whenever a batch is finished.
        permission: the user's word that programs of the model may run; only suites with such tasks need it.
        shards: how many processes ask; each takes every so-manyth batch, and a GPU of its own where there are several.
        score_only: score what is on record and load no model.

    Returns:
        what results.json holds.

    Raises:
        GraError: when the suite, its data or the model cannot be used.
    """
    model.check()
    exam = read_exam(suite, data_dir)
    questions = exam.questions
    needs_permission(questions, permission)
    suite = suite.model_copy(update={"backend": backend_of(suite, questions, device)})
    verifier, breaks = _verifier(questions)
    keys, fingerprint = fingerprints(suite, model, questions, verifier)
    folder = RunFolder(output).create()
    with folder.lock():
        if folder.completed("evaluation", fingerprint) is not None:
            for task in questions:
                progress(task.name, len(task.items), len(task.items))
            return dict(json.loads((output / RESULTS).read_text(encoding="utf-8")))
        begun = time.monotonic()
        stores = {
            task.name: AnswerStore(output / "answers" / f"{task.name}-{keys[task.name][:12]}") for task in questions
        }
        sitting = Sitting(suite, model, questions, stores, data_dir, device)
        if score_only:
            _see_all_there(sitting, output)
        elif shards > 1:
            ask_in_shards(sitting, progress, shards)
        else:
            ask(sitting, progress)
        answers = sitting.answers()
        sandbox = open_sandbox(questions, permission)
        rows = {task.name: _score(task, answers[task.name], sandbox, breaks, progress) for task in questions}
        records = write_records(output, [row for group in rows.values() for row in group])
        results = {
            "model": {"name": model.name, "identity": model.identity, "adapter": str(model.adapter or "") or None},
            "suite": {"name": suite.name, "digest": suite_digest(questions)},
            "decoding": decoding(suite),
            "fingerprint": fingerprint,
            "tasks": {task.name: summarise(task, rows[task.name]) for task in questions},
            "left_out": exam.left_out,
            "ifeval_verifier": verifier,
            "seconds": round(time.monotonic() - begun, 1),
            "code_execution": sandbox.facts() if sandbox is not None else None,
        }
        write_json(output / RESULTS, results)
        content = {key: results[key] for key in _IN_MANIFEST}
        folder.record("evaluation", {**content, "answers": keys}, [records, output / RESULTS])
    return results


def backend_of(suite: SuiteConfig, questions: Sequence[Questions], device: Device) -> Literal["hf", "vllm"]:
    """What asks the model: vLLM where it can and there is something to write, else transformers, the reference."""
    if suite.backend != "auto":
        return suite.backend
    able = device != "cpu" and gpu_count() > 0 and importlib.util.find_spec("vllm") is not None
    return "vllm" if able and any(task.generated for task in questions) else "hf"


def decoding(suite: SuiteConfig) -> dict[str, Any]:
    """The settings that answers depend on; batch size and device are left out on purpose."""
    limit = suite.generation.max_new_tokens
    own = {task.name: task.max_new_tokens for task in suite.tasks if task.max_new_tokens is not None}
    settings = {"backend": suite.backend, "dtype": suite.dtype, "max_new_tokens": limit, "greedy": True}
    return {**settings, "max_new_tokens_of": own} if own else settings


def fingerprints(
    suite: SuiteConfig, model: ModelUnderTest, questions: Sequence[Questions], verifier: str | None = None
) -> tuple[dict[str, str], str]:
    """A key for the answers to each task, and one for the whole scored evaluation.

    The model's identity, its adapter, its chat template, the wording and the decoding are in the key of the answers, so
    that no model is served another's; the items are beside it, one by one. The targets, and what judges, are in the
    second only: changed checks score the recorded answers again.
    """
    own = model.fingerprint()
    keys = {}
    for task in questions:
        template = digest(model.template()) if task.chat else None
        limit = task.task.max_new_tokens or suite.generation.max_new_tokens if task.generated else None
        settings = [suite.backend, suite.dtype, limit]
        keys[task.name] = digest([_VERSION, own, template, settings, task.wording()])
    exam = [[task.asked(), task.target(), task.metric] for task in questions]
    return keys, digest([model.name, keys, exam, verifier])


def _see_all_there(sitting: Sitting, output: Path) -> None:
    if missing := sitting.missing():
        sizes = {task.name: len(task.items) for task in sitting.questions}
        gaps = ", ".join(f"{name} {count} of {sizes[name]}" for name, count in missing.items())
        raise DataError(
            f"`--score-only` asks nothing, and {output} lacks answers of this model to this suite: {gaps}; run without "
            "it once"
        )


def _verifier(questions: Sequence[Questions]) -> tuple[str | None, Broken]:
    """Who judges IFEval: lm-eval's program where it works, else ours; None when nothing of it is asked."""
    if all(task.task.kind != "ifeval" for task in questions):
        return None, broken
    from gra.evaluation.lm_eval import verifier

    return verifier() or ("gra", broken)


def _score(
    task: Questions, answers: list[Answer], sandbox: Sandbox | None, breaks: Broken, progress: Progress
) -> list[dict[str, Any]]:
    """Rows with metrics; programs are judged in the sandbox, whatever was said about them before."""
    if task.task.kind != "code" or sandbox is None:
        return score(task, answers, breaks=breaks)

    def judged(done: int) -> None:
        progress(f"{task.name}, judged", done, len(task.items))

    return score(task, answers, judge(sandbox, task, answers, judged))
