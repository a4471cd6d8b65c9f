"""Ask models through lm-eval; the only module that imports it.

lm-eval builds the prompts, sends the requests and scores the choices. The model is loaded by
`gra.evaluation.hf_backend`, the reference, or by lm-eval's own vLLM backend.
Tasks of `kind: lm-eval` keep lm-eval's wording and metrics.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.api.task as lm_eval_task
import yaml
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from gra.config.suite import SuiteConfig, TaskConfig
from gra.core.errors import DataError, EngineUnavailable, ModelUnavailable
from gra.core.hardware import computing_type, width
from gra.core.hashing import digest
from gra.core.processes.rendering import limited_rendering
from gra.core.text.thinking import split_thinking
from gra.evaluation.lm_eval_data import local_datasets
from gra.evaluation.model import ModelUnderTest
from gra.evaluation.task import LoadedTask, Sample, SampleOutput, template_file

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from gra.evaluation.hf_backend import Finish, HFModel

__all__ = ["TransformersLM", "ask", "load_vllm", "native_samples", "quiet", "tasks_of", "verifier"]

_TOKENS = 256  # lm-eval's own limit where a task of its names none
Tasks = dict[str, Any]  # lm-eval's tasks by name


def ask(lm: TemplateLM, tasks: Tasks, task: LoadedTask, samples: Sequence[Sample]) -> list[SampleOutput]:
    """Ask the model some samples of a task.

    Args:
        lm: the model.
        tasks: the task as `tasks_of` returns it.
        task: the task.
        samples: the samples that are asked.

    Returns:
        One output for each sample, in their order.
    """
    places = {sample.id: place for place, sample in enumerate(task.samples)}
    chosen: dict[str, list[int]] = {}
    for sample in samples:
        name, place = _native_place(sample.id) if task.kind.native else (task.name, places[sample.id])
        chosen.setdefault(name, []).append(place)
    lm.chat = task.chat
    result = lm_evaluate(
        lm=lm,
        task_dict={"tasks": {name: tasks[name] for name in chosen}},
        samples=chosen,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=task.chat,
    )
    logged: dict[str, list[dict[str, Any]]] = {}
    for name, entries in result["samples"].items():
        for entry in entries:
            own = f"{name}/{entry['doc_id']}" if task.kind.native else entry["doc"]["id"]
            logged.setdefault(own, []).append(entry)
    return [_output(lm, task, sample, logged[sample.id]) for sample in samples]


def _output(lm: TemplateLM, task: LoadedTask, sample: Sample, entries: list[dict[str, Any]]) -> SampleOutput:
    """Make one output of lm-eval's entries; a task of lm-eval's own has an entry for each of its filters."""
    entry = entries[0]
    asked, prompt_hash = sample.asked, entry["prompt_hash"]
    metrics = _metrics(entries) if task.kind.native else None
    if task.generated:
        end = lm.finishes[entry["arguments"][0][0]]
        return SampleOutput(sample.id, asked, prompt_hash, end.text, end.reason, end.tokens, metrics=metrics)
    weights = [float(resps[0][0]) for resps in entry["resps"]]
    accuracies = {"acc": entry.get("acc"), "acc_norm": entry.get("acc_norm")}
    return SampleOutput(sample.id, asked, prompt_hash, loglikelihoods=weights, **accuracies, metrics=metrics)


def _metrics(entries: list[dict[str, Any]]) -> str:
    """Return every metric of every filter as JSON, under lm-eval's names, without the filter's name "none"."""
    found = {}
    for entry in entries:
        for name in entry["metrics"]:
            value = entry[name]
            if isinstance(value, bool | int | float):
                found[name if entry["filter"] == "none" else f"{name},{entry['filter']}"] = float(value)
    return json.dumps(found)


def tasks_of(task: LoadedTask, suite: SuiteConfig, data_dir: Path | None) -> Tasks:
    """Return a task in lm-eval's form: a template of eval/tasks with the samples in memory, or a task of its own."""
    if task.kind.native:
        return _native(task.config, data_dir)
    rows = [
        {"id": s.id, "text": s.text, "choices": list(s.choices), "answer": s.answer, "category": s.category}
        for s in task.samples
    ]

    def samples(**_: Any) -> dict[str, Any]:
        # `load_dataset` would write a cache and count the download on a server.
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    template = template_file(task.template)[0].read_text(encoding="utf-8-sig")
    config = {**yaml.safe_load(template), "task": task.name, "custom_dataset": samples}
    if task.generated:
        config["generation_kwargs"] |= {"max_gen_toks": task.config.max_new_tokens or suite.generation.max_new_tokens}
    return dict(TaskManager(include_defaults=False).load([config])["tasks"])


def native_samples(task: TaskConfig, data_dir: Path | None) -> tuple[list[Sample], bool]:
    """Read the samples of a task or group of lm-eval's own, and say whether the model writes its answers.

    Raises:
        DataError: when lm-eval has no such task.
        ModelUnavailable: when its data cannot be had.
    """
    built = _native(task, data_dir)
    samples = []
    for name, own in built.items():
        for place, doc in enumerate(own.eval_docs):
            text = own.doc_to_text(doc)
            document = json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)
            category = name if len(built) > 1 else ""
            # The whole document is in the digest, so it needs no target of its own.
            samples.append(Sample(f"{name}/{place}", category, str(text), choices=(digest([document]),)))
    for own in built.values():
        filters = [str(one["name"]) for one in own.config.filter_list or ()]
        listed = [f"{metric}{f',{one}' if one else ''}" for metric in own.aggregation() for one in filters or [""]]
        if task.metric not in listed:
            raise DataError(
                f"lm-eval's task `{own.task_name}` has no metric `{task.metric}`; it has {', '.join(listed)}"
            )
    kinds = {own.OUTPUT_TYPE for own in built.values()}
    if len(kinds) > 1 or not kinds <= {"generate_until", "multiple_choice"}:
        raise DataError(f"lm-eval's task `{task.data}` mixes ways of answering ({', '.join(sorted(kinds))})")
    return samples, kinds == {"generate_until"}


def _native_place(sample: str) -> tuple[str, int]:
    name, _, place = sample.rpartition("/")
    return name, int(place)


def _native(task: TaskConfig, data_dir: Path | None) -> Tasks:
    with quiet():
        return _load_native(task.data, task.shots, task.max_new_tokens, data_dir)


@lru_cache(maxsize=16)
def _load_native(name: str, shots: int | None, tokens: int | None, data_dir: Path | None) -> Tasks:
    from datasets.exceptions import DatasetsError

    manager = _manager()
    if name not in manager.all_tasks:
        raise DataError(f"lm-eval has no task `{name}`; `python -m lm_eval ls tasks` lists them")
    try:
        with local_datasets(lm_eval_task.datasets, data_dir):
            tasks = dict(manager.load([name])["tasks"])
    except (OSError, ValueError, DatasetsError, ImportError, LookupError) as error:
        reason = str(error).split("\n")[0]
        raise ModelUnavailable(
            f"lm-eval's task `{name}` cannot be had: {type(error).__name__}: {reason}; its data comes from the hub, or "
            "from a folder given with --data-dir"
        ) from None
    for own in tasks.values():
        if shots is not None:
            own.set_config(key="num_fewshot", value=shots)
        if tokens is not None and own.OUTPUT_TYPE == "generate_until":
            own.set_config(key="generation_kwargs", value={"max_gen_toks": tokens}, update=True)
        own.set_fewshot_seed(seed=1234)  # that of lm-eval's command line
        wanted = own.get_config("num_fewshot") or 0
        if wanted and not own.fewshot_cfg.samples and not len(own.fewshot_docs()):
            raise ModelUnavailable(
                f"lm-eval's task `{own.task_name}` shows {wanted} worked examples, and {data_dir} holds none for it; "
                "add the file (docs/evaluation.md lists them), leave --data-dir out, or set `shots: 0`"
            )
    return tasks


@lru_cache(maxsize=1)
def _manager() -> TaskManager:
    return TaskManager()


class TransformersLM(TemplateLM):  # type: ignore[misc]
    """An `HFModel` as a model of lm-eval."""

    backend = "causal"

    def __init__(self, student: HFModel) -> None:
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
        """Return the tokens of a text."""
        return self._student.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as the chat template writes it."""
        with limited_rendering():
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )  # fmt: skip

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Weigh without lm-eval's progress bars; the caller shows progress."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._student.weigh([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuse: no task of a suite asks for perplexity."""
        raise NotImplementedError("perplexity tasks are not part of any suite")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return greedy answers without thinking, which lm-eval scores; `finishes` keeps each whole, by prompt."""
        groups: dict[tuple[int, tuple[str, ...]], list[str]] = {}
        for request in requests:
            prompt, options = request.args
            until = options.get("until") or []
            stops = (until,) if isinstance(until, str) else tuple(until)
            groups.setdefault((options.get("max_gen_toks", _TOKENS), stops), []).append(prompt)
        self.finishes = {}
        for (limit, stops), prompts in groups.items():
            self.finishes |= zip(prompts, self._student.generate(prompts, limit, stops), strict=True)
        return [split_thinking(self.finishes[request.args[0]].text)[1] for request in requests]


def load_vllm(suite: SuiteConfig, model: ModelUnderTest, tokenizer: Any, scratch: Path) -> TemplateLM:
    """Load lm-eval's vLLM backend; an adapter is merged first, into `scratch`, which has to outlive the model.

    Raises:
        EngineUnavailable: when vLLM cannot be imported.
    """
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise EngineUnavailable(
            f"`backend: vllm` needs vLLM, which cannot be imported ({error}); use `backend: hf`"
        ) from None
    import torch

    from gra.evaluation.hf_backend import Finish

    class RecordingVLLM(VLLM):  # type: ignore[misc]
        """lm-eval's vLLM model; records why each answer ended, and takes prompts of the chat template as they stand."""

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
            return [split_thinking(text)[1] for text in texts]

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            for (context, _), tokens, more in requests:
                if len(tokens) + len(more) >= self.max_length:  # lm-eval would cut it on the left in silence
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
        model.load_weights(suite.dtype, "cpu", tokens=len(tokenizer)).save_pretrained(weights)
    tokenizer.save_pretrained(scratch / "tokenizer")
    shutil.copy(Path(weights) / "config.json", scratch / "tokenizer")  # vLLM looks for the model's type there
    names = {"pretrained": str(weights), "tokenizer": str(scratch / "tokenizer")}
    # `generation_config="vllm"`: sampling comes from us, never from a file that travels with the weights.
    # Compiling does not pay on a CPU.
    options: dict[str, Any] = {"generation_config": "vllm", "enforce_eager": not torch.cuda.is_available()}
    dtype = computing_type(suite.dtype, on_gpu=torch.cuda.is_available())
    if not torch.cuda.is_available():
        # As in synthesis: vLLM would take half of the memory, and cache blocks longer than most prompts.
        options |= {"kv_cache_memory_bytes": width(dtype, on_gpu=False) * 2**30, "block_size": 32}
    return RecordingVLLM(**names, dtype=dtype, batch_size=256, **options)


@lru_cache(maxsize=1)
def verifier() -> tuple[str, Any] | None:
    """Return lm-eval's program for IFEval after its name, or None where it does not work.

    It needs langdetect, immutabledict and NLTK's sentence splitter, which is a download of its own.
    """
    try:
        import langdetect  # type: ignore[import-not-found, unused-ignore]
        import nltk  # type: ignore[import-untyped]

        nltk.data.find("tokenizers/punkt_tab")
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    except (ImportError, LookupError):
        return None
    langdetect.DetectorFactory.seed = 0  # it guesses at random otherwise

    def broken(instructions: Sequence[Mapping[str, Any]], answer: str) -> list[str]:
        failures = []
        for one in instructions:
            check = INSTRUCTION_DICT[one["id"]](one["id"])
            check.build_description(**{key: value for key, value in one.items() if key != "id"})
            if not (answer.strip() and check.check_following(answer)):
                failures.append(one["id"])
        return failures

    return "lm-eval", broken


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and remarks off the terminal; errors still show."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval_task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    lm_eval_task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval_task.tqdm = bar
