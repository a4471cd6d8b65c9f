"""Answers to a suite through lm-eval, embedded as a library; the only module that imports it.

lm-eval builds the prompts, sends the requests and scores the choices; the model side is `gra.evaluation.student`
(or lm-eval's own vLLM backend). Answers are recorded chunk by chunk, so a killed run loses only the chunk in
flight, and an evaluation that is done for the same inputs is not done again.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lm_eval.api.task as lm_eval_task
import yaml
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from gra.core.errors import DataError, EngineUnavailable
from gra.core.manifest import RunFolder, digest, write_json
from gra.core.schema import Suite
from gra.evaluation.code import judge, needs_permission, open_sandbox
from gra.evaluation.model import Device, ModelUnderTest
from gra.evaluation.records import RESULTS, Answer, AnswerStore, score, summarise, write_records
from gra.evaluation.suite import Questions, read_questions, suite_digest, task_form
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    from gra.evaluation.student import Finish, Student

__all__ = ["ModelUnderTest", "evaluate", "fingerprints"]

Progress = Callable[[str, int, int], None]
_CHUNK = 32  # items per part on disk; a kill loses at most one
_IN_MANIFEST = ("fingerprint", "model", "suite", "decoding", "seconds", "code_execution")
_VERSION = 1  # raise when the same inputs would give other answers


def evaluate(
    suite: Suite,
    model: ModelUnderTest,
    output: Path,
    *,
    data_dir: Path | None = None,
    device: Device = "auto",
    progress: Progress | None = None,
    permission: Permission | None = None,
) -> dict[str, Any]:
    """Ask one model the whole suite and score its answers; what is on record is not asked again.

    Args:
        suite: what is asked.
        model: who is asked.
        output: the folder of this evaluation: answers/, records.parquet, results.json, manifest.json.
        data_dir: a folder that holds benchmark files.
        device: where the network runs.
        progress: called with (task, items done, items) whenever a chunk is finished.
        permission: the user's word that programs of the model may run; only suites with such tasks need it.

    Returns:
        what results.json holds.

    Raises:
        GraError: when the suite, its data or the model cannot be used.
    """
    model.check()
    questions = read_questions(suite, data_dir)
    needs_permission(questions, permission)
    keys, fingerprint = fingerprints(suite, model, questions)
    folder = RunFolder(output).create()
    with folder.lock():
        if folder.completed("evaluation", fingerprint) is not None:
            for task in questions:
                _tell(progress, task, len(task.items))
            return dict(json.loads((output / RESULTS).read_text(encoding="utf-8")))
        begun = time.monotonic()
        answers = _answers(suite, model, questions, keys, output, device, progress)
        sandbox = open_sandbox(questions, permission)
        rows = {task.name: _score(task, answers[task.name], sandbox, progress) for task in questions}
        records = write_records(output, [row for group in rows.values() for row in group])
        results = {
            "model": {"name": model.name, "identity": model.identity, "adapter": str(model.adapter or "") or None},
            "suite": {"name": suite.name, "digest": suite_digest(questions)},
            "decoding": decoding(suite),
            "fingerprint": fingerprint,
            "tasks": {task.name: summarise(task, rows[task.name]) for task in questions},
            "seconds": round(time.monotonic() - begun, 1),
            "code_execution": sandbox.facts() if sandbox is not None else None,
        }
        write_json(output / RESULTS, results)
        content = {key: results[key] for key in _IN_MANIFEST}
        folder.record("evaluation", {**content, "answers": keys}, [records, output / RESULTS])
    return results


def decoding(suite: Suite) -> dict[str, Any]:
    """The settings that answers depend on; batch size and device are left out on purpose."""
    limit = suite.generation.max_new_tokens
    return {"backend": suite.backend, "dtype": suite.dtype, "max_new_tokens": limit, "greedy": True}


def fingerprints(suite: Suite, model: ModelUnderTest, questions: Sequence[Questions]) -> tuple[dict[str, str], str]:
    """A key for the answers to each task, and one for the whole scored evaluation.

    The model's identity, its adapter, its chat template, the wording, the items and the decoding are in the key of
    the answers, so that no model is served another's. The targets are in the second only: changed checks score the
    recorded answers again.
    """
    own, settings = model.fingerprint(), decoding(suite)
    keys = {}
    for task in questions:
        template = digest(model.template()) if task.chat else None
        keys[task.name] = digest([_VERSION, own, template, settings, task.asked()])
    return keys, digest([model.name, keys, [task.target() for task in questions]])


def _answers(
    suite: Suite,
    model: ModelUnderTest,
    questions: Sequence[Questions],
    keys: dict[str, str],
    output: Path,
    device: Device,
    progress: Progress | None,
) -> dict[str, list[Answer]]:
    """All answers by task: those on record, then the others; the model is loaded when the first one is missing."""
    size = max(_CHUNK, suite.batch_size)
    loaded: TemplateLM | None = None
    answers: dict[str, list[Answer]] = {}
    with TemporaryDirectory(prefix="gra-eval-") as scratch, _quiet():
        for task in questions:
            store = AnswerStore(output / "answers" / f"{task.name}-{keys[task.name][:12]}")
            lm_task: Task | None = None
            answers[task.name] = []
            _tell(progress, task, 0)
            for number, start in enumerate(range(0, len(task.items), size)):
                indices = list(range(start, min(start + size, len(task.items))))
                part = store.load(number, [task.items[i] for i in indices])
                if part is None:
                    loaded = loaded or _load(suite, model, questions, device, Path(scratch))
                    lm_task = lm_task or _lm_task(task, suite)
                    part = _ask(loaded, lm_task, task, indices)
                    store.save(number, part)
                answers[task.name] += part
                _tell(progress, task, len(answers[task.name]))
    del loaded
    _free()
    return answers


def _score(
    task: Questions, answers: list[Answer], sandbox: Sandbox | None, progress: Progress | None
) -> list[dict[str, Any]]:
    """Rows with metrics; programs are judged in the sandbox, whatever was said about them before."""
    if task.task.kind != "code" or sandbox is None:
        return score(task, answers)

    def judged(done: int) -> None:
        if progress is not None:
            progress(f"{task.name}, judged", done, len(task.items))

    return score(task, answers, judge(sandbox, task, answers, judged))


def _ask(lm: TemplateLM, lm_task: Task, task: Questions, indices: list[int]) -> list[Answer]:
    """Put one chunk of items to the model."""
    lm.chat = task.chat
    result = lm_evaluate(
        lm=lm,
        task_dict={"tasks": {task.name: lm_task}},
        samples={task.name: indices},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=task.chat,
    )
    samples = {sample["doc"]["id"]: sample for sample in result["samples"][task.name]}
    return [_answer(lm, task, samples[task.items[index].id]) for index in indices]


def _answer(lm: TemplateLM, task: Questions, sample: dict[str, Any]) -> Answer:
    name, prompt_hash = sample["doc"]["id"], sample["prompt_hash"]
    if task.generated:
        finish = lm.finishes[sample["arguments"][0][0]]
        return Answer(name, prompt_hash, output=finish.text, finish=finish.reason, tokens=finish.tokens)
    weights = [float(resps[0][0]) for resps in sample["resps"]]
    return Answer(name, prompt_hash, loglikelihoods=weights, acc=sample["acc"], acc_norm=sample["acc_norm"])


def _lm_task(task: Questions, suite: Suite) -> Task:
    """The task as lm-eval sees it: a form from eval/tasks and our items, handed over in memory."""
    form = task_form(task.form)[0]
    rows = [{"id": i.id, "text": i.text, "choices": list(i.choices), "answer": i.answer} for i in task.items]

    def items(**_: Any) -> dict[str, Any]:
        # Not through `load_dataset`: it would write a cache and count the download on a server.
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    config = {**yaml.safe_load(form.read_text(encoding="utf-8")), "task": task.name, "custom_dataset": items}
    if task.generated:
        config["generation_kwargs"] |= {"max_gen_toks": suite.generation.max_new_tokens}
    built: Task = TaskManager(include_defaults=False).load([config])["tasks"][task.name]
    return built


class _TransformersLM(TemplateLM):  # type: ignore[misc]
    """lm-eval's view of a `Student`."""

    backend = "causal"

    def __init__(self, student: Student) -> None:
        super().__init__()
        self._student, self.tokenizer = student, student.tokenizer
        self.finishes: dict[str, Finish] = {}

    @property
    def chat(self) -> bool:
        """Whether prompts come from the chat template."""
        return self._student.chat

    @chat.setter
    def chat(self, value: bool) -> None:
        self._student.chat = value

    @property
    def eot_token_id(self) -> int:
        """The token before an empty context."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """A label for lm-eval's own bookkeeping."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text."""
        return self._student.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the template writes it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )  # fmt: skip

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Without lm-eval's bars: progress is shown by the caller."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._student.weigh([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """No task of ours asks for it."""
        raise NotImplementedError("perplexity tasks are not part of any suite")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers; how each ended is kept in `finishes`, by prompt."""
        prompts = [request.args[0] for request in requests]
        finishes = self._student.generate(prompts, requests[0].args[1]["max_gen_toks"])
        self.finishes = dict(zip(prompts, finishes, strict=True))
        return [finish.text for finish in finishes]


def _load(
    suite: Suite, model: ModelUnderTest, questions: Sequence[Questions], device: Device, scratch: Path
) -> TemplateLM:
    template = model.template() if any(task.chat for task in questions) else None
    tokenizer = model.load_tokenizer(template)
    if suite.backend == "vllm":
        return _load_vllm(suite, model, tokenizer, scratch)
    from gra.evaluation.student import Student

    return _TransformersLM(Student(model.load_weights(suite.dtype, device), tokenizer, suite.batch_size))


def _load_vllm(suite: Suite, model: ModelUnderTest, tokenizer: Any, scratch: Path) -> TemplateLM:
    """lm-eval's vLLM backend; an adapter is merged first, into a folder that lives as long as the evaluation."""
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise EngineUnavailable(
            f"`backend: vllm` needs vLLM, which cannot be imported ({error}); use `backend: hf`"
        ) from None
    import torch

    from gra.evaluation.student import Finish

    class RecordingVLLM(VLLM):  # type: ignore[misc]
        """Keeps how each answer ended, and takes prompts from the chat template as they stand."""

        finishes: dict[str, Finish]

        @property
        def chat(self) -> bool:
            return self.add_bos_token is False

        @chat.setter
        def chat(self, value: bool) -> None:
            self.add_bos_token = False if value else None

        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return list(super().loglikelihood(requests, disable_tqdm=True))

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            self._ended: dict[tuple[int, ...], Any] = {}
            texts = list(super().generate_until(requests, disable_tqdm=True))
            self.finishes = {}
            for request, text in zip(requests, texts, strict=True):
                prompt = request.args[0]
                end = self._ended.get(tuple(self.tok_encode(prompt)))
                if end is None:
                    raise DataError(f"a prompt is too long for the model; it begins: {prompt[:60]!r}")
                self.finishes[prompt] = Finish(text, len(end.token_ids), str(end.finish_reason))
            return texts

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            for (context, _), tokens, more in requests:
                if len(tokens) + len(more) >= self.max_length:  # it would be cut on the left without a word
                    raise DataError(f"a question is too long for the model; it begins: {context[:60]!r}")
            return list(super()._loglikelihood_tokens(requests, disable_tqdm=True))

        def _model_generate(self, requests: Any = None, generate: bool = False, **options: Any) -> Any:
            outputs = super()._model_generate(requests, generate=generate, **options)
            if generate:
                self._ended |= {tuple(output.prompt_token_ids): output.outputs[0] for output in outputs}
            return outputs

    weights = model.weights
    if model.adapter is not None and weights != model.adapter:
        weights = scratch / "merged"
        model.load_weights(suite.dtype, "cpu").save_pretrained(weights)
    tokenizer.save_pretrained(scratch / "tokenizer")
    shutil.copy(Path(weights) / "config.json", scratch / "tokenizer")  # vLLM looks for the model's type there
    names = {"pretrained": str(weights), "tokenizer": str(scratch / "tokenizer")}
    # `generation_config="vllm"`: sampling comes from us, never from a file that travels with the weights.
    # Compiling does not pay on a CPU.
    options = {"generation_config": "vllm", "enforce_eager": not torch.cuda.is_available()}
    return RecordingVLLM(**names, dtype=suite.dtype, batch_size=256, **options)


def _tell(progress: Progress | None, task: Questions, done: int) -> None:
    if progress is not None:
        progress(task.name, done, len(task.items))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's bars and remarks off the terminal; errors still show."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval_task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    lm_eval_task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval_task.tqdm = bar


def _free() -> None:
    """Give the memory of the last model back before the next one is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
