"""Asking: what no recorded answer covers is put to the model batch by batch, and every batch recorded at once.

`shards` does the same in several processes; each takes every so-manyth batch.
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
from gra.evaluation.results import Answer, AnswerStore
from gra.evaluation.suite import Item, Questions

Progress = Callable[[str, int, int], None]
_WEIGHED = 32  # items a batch when choices are weighed: they take a moment
_AT_ONCE = 256  # items a batch of vLLM, which fills its own


@dataclass(frozen=True)
class Sitting:
    """A model that sits an exam: what it is asked, where its answers are kept, and where it runs."""

    suite: SuiteConfig
    model: ModelUnderTest
    questions: Sequence[Questions]
    stores: Mapping[str, AnswerStore]  # by task
    data_dir: Path | None = None
    device: Device = "auto"

    def answers(self) -> dict[str, list[Answer]]:
        """The recorded answers by task, in the order of the items.

        Raises:
            KeyError: when one is missing.
        """
        recorded = {task.name: self.stores[task.name].load() for task in self.questions}
        return {t.name: [recorded[t.name][item.id, item.asked] for item in t.items] for t in self.questions}

    def missing(self) -> dict[str, int]:
        """How many items of each task have no recorded answer, for tasks that lack any."""
        there = {task.name: self.stores[task.name].load() for task in self.questions}
        lacking = {t.name: sum((i.id, i.asked) not in there[t.name] for i in t.items) for t in self.questions}
        return {name: count for name, count in lacking.items() if count}


def ask(sitting: Sitting, progress: Progress, share: tuple[int, int] = (0, 1)) -> None:
    """Ask what is not on record; the model is loaded when the first answer is missing.

    Args:
        sitting: who is asked what.
        progress: called with (task, items done, items) whenever a batch is finished.
        share: (which, of how many): every so-manyth batch is asked.
    """
    from gra.evaluation import lm_eval as lm

    which, of = share
    loaded: Any = None  # lm-eval's view of a model; only `lm.py` knows its type
    number = 0
    with TemporaryDirectory(prefix="gra-eval-") as scratch, lm.quiet():
        for task in sitting.questions:
            store = sitting.stores[task.name]
            there = set(store.load())
            tasks: dict[str, Any] | None = None
            done = 0
            progress(task.name, done, len(task.items))
            for batch in _batches(sitting.suite, task):
                number += 1
                if number % of != which:
                    continue
                missing = [item for item in batch if (item.id, item.asked) not in there]
                if missing:
                    loaded = loaded or load(sitting, Path(scratch))
                    tasks = tasks or lm.tasks_of(task, sitting.suite, sitting.data_dir)
                    store.save(lm.ask(loaded, tasks, task, missing))
                done += len(batch)
                progress(task.name, done, len(task.items))
    del loaded
    _free()


def _batches(suite: SuiteConfig, task: Questions) -> Iterator[Sequence[Item]]:
    """The items in the batches in which they are asked and recorded."""
    size = suite.batch_size if task.generated else max(_WEIGHED, suite.batch_size)
    size = max(_AT_ONCE, size) if suite.backend == "vllm" else size
    for start in range(0, len(task.items), size):
        yield task.items[start : start + size]


def load(sitting: Sitting, scratch: Path) -> Any:
    """The model as lm-eval sees it; `scratch` is a folder that outlives it."""
    from gra.evaluation.lm_eval import TransformersLM, load_vllm

    suite, model = sitting.suite, sitting.model
    template = model.template() if any(task.chat for task in sitting.questions) else None
    tokenizer = model.load_tokenizer(template)
    if suite.backend == "vllm":
        return load_vllm(suite, model, tokenizer, scratch)
    from gra.evaluation.hf_backend import HFModel

    return TransformersLM(HFModel(model.load_weights(suite.dtype, sitting.device), tokenizer, suite.batch_size))


def _free() -> None:
    """Give the memory of the last model back before the next one is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
