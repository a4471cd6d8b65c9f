"""Distill with TRL: the student answers, and learns a teacher's probabilities of every next token.

Imports torch and TRL; import this module only when training starts.

One vocabulary: `DistillationTrainer` (Agarwal et al. 2023, arXiv 2306.13649). Two vocabularies: `GOLDTrainer`, which is
experimental in TRL, so it may change with any release.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from trl import DistillationTrainer

from gra.models.weights import widened
from gra.training.options.trl_config import on_cpu
from gra.training.plan import TrainingPlan
from gra.training.trainers.sft import GraTrainer, trainer_of


class SameVocabularyTrainer(GraTrainer, DistillationTrainer):  # type: ignore[misc]  # TRL is untyped
    """DistillationTrainer for a teacher with the student's vocabulary."""


def make_trainer(plan: TrainingPlan, model: Any, arguments: Any, callbacks: list[TrainerCallback]) -> Any:
    """Return the trainer of `method: distill`, with the teacher loaded."""
    kind: type[Any] = SameVocabularyTrainer
    if not _one_vocabulary(plan):
        kind = _other_vocabulary_trainer()
        assert plan.teacher is not None
        arguments.use_uld_loss, arguments.teacher_tokenizer_name_or_path = True, str(plan.teacher.path)
    teacher = _load_teacher(plan, model)
    return trainer_of(kind, plan, model, arguments, callbacks, teacher_model=teacher)


def _one_vocabulary(plan: TrainingPlan) -> bool:
    assert plan.recipe.teacher is not None
    return plan.recipe.teacher.vocabulary == "same"


def _other_vocabulary_trainer() -> type[Any]:
    from trl.experimental.gold import GOLDTrainer  # importing it warns that it is experimental

    class OtherVocabularyTrainer(GraTrainer, GOLDTrainer):  # type: ignore[misc]
        """GOLDTrainer, which aligns two vocabularies by their texts."""

    return OtherVocabularyTrainer


def _load_teacher(plan: TrainingPlan, student: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    assert plan.teacher is not None
    assert plan.recipe.teacher is not None
    teacher = AutoModelForCausalLM.from_pretrained(
        plan.teacher.path,
        dtype=getattr(torch, plan.recipe.teacher.dtype),
        attn_implementation=plan.recipe.model.attn_implementation,
        trust_remote_code=plan.teacher.remote_code,
        use_safetensors=True,
    )
    size = student.config.get_text_config().vocab_size
    if _one_vocabulary(plan) and teacher.config.get_text_config().vocab_size != size:
        # Models of one family pad one vocabulary to different sizes; the rows beyond it belong to no token.
        teacher.resize_token_embeddings(size)
    return widened(teacher, plan.recipe.teacher.dtype, on_gpu=not on_cpu(plan.options)).eval()
