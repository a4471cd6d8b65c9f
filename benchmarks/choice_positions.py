"""Measure what it saves to compute the vocabulary only at the tokens of choices.

Run as: python benchmarks/choice_positions.py MODEL_FOLDER [--suite eval/suites/study.yaml] [--json FILE]

Choices of several lengths share a batch, so shorter ones are padded. A small model with a large vocabulary spends most
of its work on the vocabulary. Both ways weigh the same items in turns (`_head_at` in gra/evaluation/hf_backend.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from gra.core.files import write_json
from gra.evaluation import hf_backend, lm_eval
from gra.evaluation.model import ModelUnderTest
from gra.evaluation.suite import load_samples, load_suite


@contextmanager
def everywhere(_: Any, where: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Leave the network as it is, and take the positions from its logits."""
    yield lambda logits: logits[where]


def main(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_FOLDER", exists=True)],
    suite_file: Annotated[Path, typer.Option("--suite")] = Path("eval/suites/study.yaml"),
    turns: Annotated[int, typer.Option(help="of each way")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the rows to FILE")] = None,
) -> None:
    """Print the seconds of both ways, for every task of the suite that weighs choices."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    suite = load_suite(suite_file)
    subject = ModelUnderTest("model", folder, None, "builtin:plain", folder.name)
    tokenizer = subject.load_tokenizer(subject.template())
    network = subject.load_weights(suite.dtype, "cpu", tokens=len(tokenizer))
    model = lm_eval.TransformersLM(hf_backend.HFModel(network, tokenizer, suite.batch_size))
    ours = hf_backend._head_at
    found: list[dict[str, Any]] = []
    print("| task | items | every position, s | tokens of choices, s | ratio | same scores |")
    print("|---|---|---|---|---|---|")
    for task in load_samples(suite).tasks:
        if task.generated:
            continue
        tasks = lm_eval.tasks_of(task, suite, None)
        took: dict[str, list[float]] = {"every": [], "chosen": []}
        scores: dict[str, Any] = {}
        with lm_eval.quiet():
            for _ in range(turns):
                for name, way in (("every", everywhere), ("chosen", ours)):
                    hf_backend._head_at = way  # type: ignore[assignment]
                    begun = time.perf_counter()
                    outputs = lm_eval.ask(model, tasks, task, list(task.samples))
                    took[name].append(time.perf_counter() - begun)
                    scores[name] = [(output.item, output.acc, output.acc_norm) for output in outputs]
        every, chosen = median(took["every"]), median(took["chosen"])
        row = {
            "task": task.name, "items": len(task.samples), "every": every, "chosen": chosen,
            "ratio": chosen / every, "same": scores["every"] == scores["chosen"],
        }  # fmt: skip
        found.append(row)
        print(f"| {task.name} | {row['items']} | {every:.1f} | {chosen:.1f} | {row['ratio']:.2f} | {row['same']} |")
    if json_file is not None:
        write_json(json_file, {"rows": found})


if __name__ == "__main__":
    typer.run(main)
