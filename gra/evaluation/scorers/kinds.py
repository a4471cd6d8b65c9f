"""The table of task kinds; a new kind is a module in this folder and a line here."""

from __future__ import annotations

from gra.evaluation.scorers.code import CodeTask
from gra.evaluation.scorers.ifeval import IFEvalTask
from gra.evaluation.scorers.instructions import InstructionsTask
from gra.evaluation.scorers.letter import LetterTask
from gra.evaluation.scorers.likelihood import LikelihoodTask
from gra.evaluation.scorers.lm_eval import LMEvalTask
from gra.evaluation.scorers.short import ShortTask
from gra.evaluation.scorers.value import ValueTask
from gra.evaluation.task import TaskKind

TASK_KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        InstructionsTask(),
        IFEvalTask(),
        CodeTask(),
        LetterTask(),
        ValueTask(),
        ShortTask(),
        LikelihoodTask(),
        LMEvalTask(),
    )
}
