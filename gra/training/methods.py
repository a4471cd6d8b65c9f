"""Define the training methods in one table; a new method is an entry here and a module with its trainer.

The method `sft` learns answers, and `preference` learns which of two answers is better (DPO). The method `distill`
learns a teacher's next-token probabilities on answers that the student writes. The method `reward` makes a reward
model of the student, which gives an answer one number. The method `fusion` learns answers, and beside them the
next-token distributions of several teachers with other vocabularies. See docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gra.training.data.dataset import Row, read_pairs, read_rows
from gra.training.data.encodings import (
    encode_conversations,
    encode_pairs,
    encode_prompts,
    show_conversations,
    show_pair,
    show_prompt,
)
from gra.training.data.tokenize import Encoded, encode, show_row


@dataclass(frozen=True)
class MethodSpec:
    """How a method reads files, encodes rows, trains, and is described.

    `gra.config.training.TrainRecipe.method` lists the names. Torch and TRL are imported when `trainer` is called.
    """

    read: Callable[[Path], list[Row]]
    encode: Callable[[Any, Sequence[Row], int | None, float], Encoded]
    show: Callable[[Any, Any], str]
    config: str  # The class of options in TRL.
    trainer_module: str  # It has make_trainer(plan, model, arguments, callbacks).
    tag: str  # For the model card.
    description: str  # For the model card, after "trained with GRA".
    answers: int = 1  # Answers of a row that a step reads.
    has_reference: bool = False  # A frozen copy of the student stays in memory.
    writes_answers: bool = False  # The trainer writes the answers; prompts have no limit by default.
    keeps_logits: bool = False  # The loss reads whole distributions of the student.
    scores: bool = False  # The student becomes a reward model: a head that gives one number replaces the LM head.

    @property
    def part(self) -> str:
        """The part of a run's dataset that the method reads."""
        return "preferences" if self.read is read_pairs else "train"

    def make_trainer(self, plan: Any, model: Any, arguments: Any, callbacks: list[Any]) -> Any:
        """Return the trainer of a plan.

        Args:
            plan: The run.
            model: The student's weights.
            arguments: TRL's configuration.
            callbacks: Called besides TRL's own.
        """
        return import_module(self.trainer_module).make_trainer(plan, model, arguments, callbacks)


METHODS = {
    "sft": MethodSpec(
        read_rows, encode, show_row, "SFTConfig", "gra.training.trainers.sft", "sft",
        "on prompt-completion rows; the loss is on the completion and its stop token only",
    ),
    "preference": MethodSpec(
        read_pairs, encode_pairs, show_pair, "DPOConfig", "gra.training.trainers.dpo", "dpo",
        "on pairs of a better and a worse answer (DPO)", answers=2, has_reference=True,
    ),
    "distill": MethodSpec(
        read_rows, encode_prompts, show_prompt, "DistillationConfig", "gra.training.trainers.distill", "distillation",
        "on its own answers to prompts, with the next-token probabilities of a teacher as the target",
        writes_answers=True,
    ),
    "reward": MethodSpec(
        read_pairs, encode_conversations, show_conversations, "RewardConfig", "gra.training.trainers.reward", "reward",
        "as a reward model on pairs of a better and a worse answer (Bradley-Terry)", answers=2, scores=True,
    ),
    "fusion": MethodSpec(
        read_rows, encode, show_row, "SFTConfig", "gra.training.trainers.fusion", "fusion",
        "on prompt-completion rows, with the next-token distributions of several teachers as a second target",
        keeps_logits=True,
    ),
}  # fmt: skip
