"""Evaluate one model: ask it a suite, record its answers, and score the records.

Asking and scoring are apart. Answers are recorded batch by batch, so a killed run loses only the batch in flight.
A sample with a recorded answer of the same model, wording and decoding is not asked again.
Changed checks, targets or tests score the recorded answers without the model.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gra.config.suite import SuiteConfig
from gra.core.errors import DataError, saving
from gra.core.files import write_json
from gra.core.hardware import gpu_count
from gra.core.hashing import digest
from gra.core.run_folder import RunFolder
from gra.evaluation.generate import EvaluationRun, Progress, ask
from gra.evaluation.model import Device, ModelUnderTest
from gra.evaluation.results import RESULTS, OutputStore, score_task, summarize, write_records
from gra.evaluation.scorers.code import LIMITS
from gra.evaluation.shards import ask_in_shards
from gra.evaluation.suite import load_samples, suite_digest
from gra.evaluation.task import LoadedTask, SampleOutput
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
    """Ask one model the whole suite and score its answers; recorded answers are not asked for again.

    Args:
        suite: the suite.
        model: the model.
        output: the folder of this evaluation: answers/, records.parquet, results.json, manifest.json.
        data_dir: a folder that holds benchmark files.
        device: where the network runs.
        progress: called with (task, samples done, samples) after each batch.
        permission: the user's consent that programs of the model may run; only suites with such tasks need it.
        shards: the number of processes that ask; each has a GPU of its own where there are several.
        score_only: score the recorded answers and load no model.

    Returns:
        The content of results.json.

    Raises:
        GraError: when the suite, its data or the model cannot be used.
    """
    model.check()
    loaded = load_samples(suite, data_dir)
    tasks, allowed = loaded.tasks, loaded.require_permission(permission)
    suite = suite.model_copy(update={"backend": backend_of(suite, tasks, device)})
    verifier = next((name for task in tasks if (name := task.kind.program()) is not None), None)
    keys, fingerprint = fingerprints(suite, model, tasks, verifier)
    folder = RunFolder(output).create()
    with folder.lock(), saving(folder.path):
        if folder.completed("evaluation", fingerprint) is not None:
            for task in tasks:
                progress(task.name, len(task.samples), len(task.samples))
            return dict(json.loads((output / RESULTS).read_text(encoding="utf-8")))
        begun = time.monotonic()
        stores = {task.name: OutputStore(output / "answers" / f"{task.name}-{keys[task.name][:12]}") for task in tasks}
        run = EvaluationRun(suite, model, tasks, stores, data_dir, device)
        if score_only:
            _require_all(run, output)
        elif shards > 1:
            ask_in_shards(run, progress, shards)
        else:
            ask(run, progress)
        outputs = run.outputs()
        sandbox = Sandbox(allowed, LIMITS) if allowed is not None else None
        rows = {task.name: _score(task, outputs[task.name], sandbox, progress) for task in tasks}
        records = write_records(output, [row for group in rows.values() for row in group])
        results = {
            "model": {"name": model.name, "identity": model.identity, "adapter": str(model.adapter or "") or None},
            "suite": {"name": suite.name, "digest": suite_digest(tasks)},
            "decoding": decoding(suite),
            "fingerprint": fingerprint,
            "tasks": {task.name: summarize(task, rows[task.name]) for task in tasks},
            "left_out": loaded.left_out,
            "ifeval_verifier": verifier,
            "seconds": round(time.monotonic() - begun, 1),
            "code_execution": sandbox.facts() if sandbox is not None else None,
        }
        write_json(output / RESULTS, results)
        content = {key: results[key] for key in _IN_MANIFEST}
        folder.record("evaluation", {**content, "answers": keys}, [records, output / RESULTS])
    return results


def backend_of(suite: SuiteConfig, tasks: Sequence[LoadedTask], device: Device) -> Literal["hf", "vllm"]:
    """Choose the backend: vLLM on a GPU where answers are written, else transformers, the reference."""
    if suite.backend != "auto":
        return suite.backend
    able = device != "cpu" and gpu_count() > 0 and importlib.util.find_spec("vllm") is not None
    return "vllm" if able and any(task.generated for task in tasks) else "hf"


def decoding(suite: SuiteConfig) -> dict[str, Any]:
    """Return the settings that answers depend on; batch size and device are no part of them."""
    limit = suite.generation.max_new_tokens
    own = {task.name: task.max_new_tokens for task in suite.tasks if task.max_new_tokens is not None}
    settings = {"backend": suite.backend, "dtype": suite.dtype, "max_new_tokens": limit, "greedy": True}
    return {**settings, "max_new_tokens_of": own} if own else settings


def fingerprints(
    suite: SuiteConfig, model: ModelUnderTest, tasks: Sequence[LoadedTask], verifier: str | None = None
) -> tuple[dict[str, str], str]:
    """Return a key for the answers to each task, and one for the whole scored evaluation.

    The key of the answers holds the model's identity, adapter and chat template, the wording and the decoding.
    So no model gets the recorded answers of another. Samples are compared one by one, beside the key.
    The second key also holds targets and scorers: changed checks score the recorded answers again.

    Args:
        suite: the suite, its backend resolved.
        model: the model.
        tasks: the loaded tasks.
        verifier: the name of the program that decides IFEval.

    Returns:
        The key of each task's answers by its name, and the key of the evaluation.
    """
    own = model.fingerprint()
    keys = {}
    for task in tasks:
        template = digest(model.template()) if task.chat else None
        limit = task.config.max_new_tokens or suite.generation.max_new_tokens if task.generated else None
        settings = [suite.backend, suite.dtype, limit]
        keys[task.name] = digest([_VERSION, own, template, settings, task.wording()])
    scored = [[task.asked(), task.target(), task.metric] for task in tasks]
    return keys, digest([model.name, keys, scored, verifier])


def _require_all(run: EvaluationRun, output: Path) -> None:
    if missing := run.missing():
        sizes = {task.name: len(task.samples) for task in run.tasks}
        gaps = ", ".join(f"{name} {count} of {sizes[name]}" for name, count in missing.items())
        raise DataError(
            f"`--score-only` asks nothing, and {output} lacks answers of this model to this suite: {gaps}; run without "
            "it once"
        )


def _score(
    task: LoadedTask, outputs: list[SampleOutput], sandbox: Sandbox | None, progress: Progress
) -> list[dict[str, Any]]:
    def scored(done: int) -> None:
        progress(f"{task.name}, judged", done, len(task.samples))

    return score_task(task, outputs, sandbox, scored)
