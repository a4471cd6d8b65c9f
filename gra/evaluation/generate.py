"""Ask a model the samples without a recorded answer, batch by batch, and record every batch at once.

`shards` does the same in several processes, which share the batches.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gra.config.suite import SuiteConfig
from gra.evaluation.model import Device, ModelUnderTest
from gra.evaluation.results import OutputStore
from gra.evaluation.task import LoadedTask, Sample, SampleOutput

Progress = Callable[[str, int, int], None]
# Samples a batch: when choices are weighed, which is quick; and for vLLM, which makes batches of its own.
_WEIGHED = 32
_AT_ONCE = 256


@dataclass(frozen=True)
class EvaluationRun:
    """A model, the tasks it is asked, where its answers are kept, and where it runs."""

    suite: SuiteConfig
    model: ModelUnderTest
    tasks: Sequence[LoadedTask]
    stores: Mapping[str, OutputStore]  # by task
    data_dir: Path | None = None
    device: Device = "auto"

    def outputs(self) -> dict[str, list[SampleOutput]]:
        """Return the recorded answers by task, in the order of the samples.

        Raises:
            KeyError: when one is missing.
        """
        recorded = {task.name: self.stores[task.name].load() for task in self.tasks}
        return {t.name: [recorded[t.name][s.id, s.asked] for s in t.samples] for t in self.tasks}

    def missing(self) -> dict[str, int]:
        """Return the number of samples without a recorded answer, for tasks that have any."""
        there = {task.name: self.stores[task.name].load() for task in self.tasks}
        lacking = {t.name: sum((s.id, s.asked) not in there[t.name] for s in t.samples) for t in self.tasks}
        return {name: count for name, count in lacking.items() if count}


def ask(run: EvaluationRun, progress: Progress, share: tuple[int, int] = (0, 1)) -> None:
    """Ask the samples without a recorded answer; the model is loaded when the first answer is missing.

    Args:
        run: the model and its tasks.
        progress: called with (task, samples done, samples) after each batch.
        share: (k, n): only every n-th batch is asked, beginning with the k-th.
    """
    from gra.evaluation import lm_eval as lm

    which, of = share
    loaded: Any = None  # lm-eval's view of a model; only `lm_eval.py` knows its type
    number = 0
    with TemporaryDirectory(prefix="gra-eval-") as scratch, lm.quiet():
        for task in run.tasks:
            store = run.stores[task.name]
            there = set(store.load())
            tasks: dict[str, Any] | None = None
            done = 0
            progress(task.name, done, len(task.samples))
            for batch in _batches(run.suite, task):
                number += 1
                if number % of != which:
                    continue
                missing = [sample for sample in batch if (sample.id, sample.asked) not in there]
                if missing:
                    loaded = loaded or load(run, Path(scratch))
                    tasks = tasks or lm.tasks_of(task, run.suite, run.data_dir)
                    store.save(lm.ask(loaded, tasks, task, missing))
                done += len(batch)
                progress(task.name, done, len(task.samples))
    del loaded
    _free()


def _batches(suite: SuiteConfig, task: LoadedTask) -> Iterator[Sequence[Sample]]:
    """Yield the samples in the batches in which they are asked and recorded."""
    size = suite.batch_size if task.generated else max(_WEIGHED, suite.batch_size)
    size = max(_AT_ONCE, size) if suite.backend == "vllm" else size
    for start in range(0, len(task.samples), size):
        yield task.samples[start : start + size]


def load(run: EvaluationRun, scratch: Path) -> Any:
    """Load the model as lm-eval's model type; `scratch` is a folder that outlives it."""
    from gra.evaluation.lm_eval import TransformersLM, load_vllm

    suite, model = run.suite, run.model
    template = model.template() if any(task.chat for task in run.tasks) else None
    tokenizer = model.load_tokenizer(template)
    if suite.backend == "vllm":
        return load_vllm(suite, model, tokenizer, scratch)
    from gra.evaluation.hf_backend import HFModel

    network = model.load_weights(suite.dtype, run.device, tokens=len(tokenizer))
    return TransformersLM(HFModel(network, tokenizer, suite.batch_size))


def _free() -> None:
    """Free the memory of a model before the next one is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
