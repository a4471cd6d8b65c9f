"""An evaluation: one model is asked a suite, its answers are recorded, and the records are scored.

Asking and scoring are apart. Answers are recorded batch by batch, so a killed run loses only the batch in flight; what
is on record for the same model, wording and decoding is not asked again, whichever other items are asked beside it;
and changed checks, targets or tests score the recorded answers without the model. `shards` asks in several processes.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from gra.checks.verifiable import broken
from gra.core.errors import DataError
from gra.core.machine import gpu_count
from gra.core.manifest import RunFolder, digest, write_json
from gra.core.suite_schema import Suite
from gra.evaluation.code import judge, needs_permission, open_sandbox
from gra.evaluation.model import Device, ModelUnderTest
from gra.evaluation.records import RESULTS, Answer, AnswerStore, score, summarise, write_records
from gra.evaluation.replies import Broken
from gra.evaluation.suite import Item, Questions, read_exam, suite_digest
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

__all__ = ["ModelUnderTest", "evaluate", "fingerprints"]

Progress = Callable[[str, int, int], None]
Share = tuple[int, int]  # (which, of how many)
_WEIGHED = 32  # items a batch when choices are weighed: they take a moment
_AT_ONCE = 256  # items a batch of vLLM, which fills its own
_IN_MANIFEST = ("fingerprint", "model", "suite", "decoding", "seconds", "code_execution", "left_out")
_VERSION = 2  # raise when the same inputs would give other answers


def evaluate(
    suite: Suite,
    model: ModelUnderTest,
    output: Path,
    *,
    data_dir: Path | None = None,
    device: Device = "auto",
    progress: Progress | None = None,
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
                _tell(progress, task, len(task.items))
            return dict(json.loads((output / RESULTS).read_text(encoding="utf-8")))
        begun = time.monotonic()
        stores = {
            task.name: AnswerStore(output / "answers" / f"{task.name}-{keys[task.name][:12]}") for task in questions
        }
        if score_only:
            _see_all_there(questions, stores, output)
        answers = _answers(suite, model, questions, stores, data_dir, device, progress, 0 if score_only else shards)
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


def backend_of(suite: Suite, questions: Sequence[Questions], device: Device) -> Literal["hf", "vllm"]:
    """What asks the model: vLLM where it can and there is something to write, else transformers, the reference."""
    if suite.backend != "auto":
        return suite.backend
    able = device != "cpu" and gpu_count() > 0 and importlib.util.find_spec("vllm") is not None
    return "vllm" if able and any(task.generated for task in questions) else "hf"


def decoding(suite: Suite) -> dict[str, Any]:
    """The settings that answers depend on; batch size and device are left out on purpose."""
    limit = suite.generation.max_new_tokens
    own = {task.name: task.max_new_tokens for task in suite.tasks if task.max_new_tokens is not None}
    settings = {"backend": suite.backend, "dtype": suite.dtype, "max_new_tokens": limit, "greedy": True}
    return {**settings, "max_new_tokens_of": own} if own else settings


def fingerprints(
    suite: Suite, model: ModelUnderTest, questions: Sequence[Questions], verifier: str | None = None
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


def _answers(
    suite: Suite,
    model: ModelUnderTest,
    questions: Sequence[Questions],
    stores: Mapping[str, AnswerStore],
    data_dir: Path | None,
    device: Device,
    progress: Progress | None,
    shards: int,
) -> dict[str, list[Answer]]:
    """All answers by task, after those that are missing were asked by so many processes."""
    if shards > 1:
        from gra.evaluation.shards import ask_in_shards

        ask_in_shards(suite, model, questions, stores, data_dir, device, progress, shards)
    elif shards:
        ask_share(suite, model, questions, stores, (0, 1), data_dir, device, progress)
    recorded = {task.name: stores[task.name].load() for task in questions}
    return {task.name: [recorded[task.name][item.id, item.asked] for item in task.items] for task in questions}


def ask_share(
    suite: Suite,
    model: ModelUnderTest,
    questions: Sequence[Questions],
    stores: Mapping[str, AnswerStore],
    share: Share,
    data_dir: Path | None,
    device: Device,
    progress: Progress | None,
) -> None:
    """Ask what is not on record, of every so-manyth batch; the model is loaded when the first answer is missing."""
    which, of = share
    loaded: Any = None  # lm-eval's view of a model; only `lm.py` knows its type
    number = 0
    with TemporaryDirectory(prefix="gra-eval-") as scratch, _quiet():
        for task in questions:
            store = stores[task.name]
            there = set(store.load())
            tasks: dict[str, Any] | None = None
            _tell(progress, task, 0)
            done = 0
            for batch in _batches(suite, task):
                number += 1
                if number % of != which:
                    continue
                missing = [item for item in batch if (item.id, item.asked) not in there]
                if missing:
                    loaded = loaded or _load(suite, model, questions, device, Path(scratch))
                    tasks = tasks or _tasks_of(task, suite, data_dir)
                    store.save(_ask(loaded, tasks, task, missing))
                done += len(batch)
                _tell(progress, task, done)
    del loaded
    _free()


def _batches(suite: Suite, task: Questions) -> Iterator[Sequence[Item]]:
    """The items in the batches in which they are asked and recorded."""
    size = suite.batch_size if task.generated else max(_WEIGHED, suite.batch_size)
    size = max(_AT_ONCE, size) if suite.backend == "vllm" else size
    for start in range(0, len(task.items), size):
        yield task.items[start : start + size]


def _see_all_there(questions: Sequence[Questions], stores: Mapping[str, AnswerStore], output: Path) -> None:
    gaps = {}
    for task in questions:
        there = stores[task.name].load()
        if missing := sum((item.id, item.asked) not in there for item in task.items):
            gaps[task.name] = f"{task.name} {missing} of {len(task.items)}"
    if gaps:
        raise DataError(
            f"`--score-only` asks nothing, and {output} lacks answers of this model to this suite: "
            f"{', '.join(gaps.values())}; run without it once"
        )


def _verifier(questions: Sequence[Questions]) -> tuple[str | None, Broken]:
    """Who judges IFEval: lm-eval's program where it works, else ours; None when nothing of it is asked."""
    if all(task.task.kind != "ifeval" for task in questions):
        return None, broken
    from gra.evaluation.lm import verifier

    return verifier() or ("gra", broken)


def _score(
    task: Questions, answers: list[Answer], sandbox: Sandbox | None, breaks: Broken, progress: Progress | None
) -> list[dict[str, Any]]:
    """Rows with metrics; programs are judged in the sandbox, whatever was said about them before."""
    if task.task.kind != "code" or sandbox is None:
        return score(task, answers, breaks=breaks)

    def judged(done: int) -> None:
        if progress is not None:
            progress(f"{task.name}, judged", done, len(task.items))

    return score(task, answers, judge(sandbox, task, answers, judged))


def _ask(lm: Any, tasks: dict[str, Any], task: Questions, items: Sequence[Item]) -> list[Answer]:
    from gra.evaluation.lm import ask

    return ask(lm, tasks, task, items)


def _tasks_of(task: Questions, suite: Suite, data_dir: Path | None) -> dict[str, Any]:
    from gra.evaluation.lm import tasks_of

    return tasks_of(task, suite, data_dir)


def _quiet() -> Any:
    from gra.evaluation.lm import quiet

    return quiet()


def _load(suite: Suite, model: ModelUnderTest, questions: Sequence[Questions], device: Device, scratch: Path) -> Any:
    from gra.evaluation.lm import TransformersLM, load_vllm

    template = model.template() if any(task.chat for task in questions) else None
    tokenizer = model.load_tokenizer(template)
    if suite.backend == "vllm":
        return load_vllm(suite, model, tokenizer, scratch)
    from gra.evaluation.student import Student

    return TransformersLM(Student(model.load_weights(suite.dtype, device), tokenizer, suite.batch_size))


def _tell(progress: Progress | None, task: Questions, done: int) -> None:
    if progress is not None:
        progress(task.name, done, len(task.items))


def _free() -> None:
    """Give the memory of the last model back before the next one is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
