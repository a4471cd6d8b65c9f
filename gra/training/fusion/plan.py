"""Plan a fusion before any teacher's weights are read: tokenize the rows for every teacher, and align them.

Each teacher reads the rows under its own chat template. Only answers are aligned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gra.config.loader import Loaded
from gra.config.training import FusionTeacherConfig, TrainRecipe
from gra.core.errors import DataError, RecipeError
from gra.core.hashing import digest
from gra.training.data.dataset import Row
from gra.training.data.tokenize import IGNORED, Encoded, chat_tokenizer, fingerprint, tokenized
from gra.training.fusion.alignment import AnswerTokens, Places, align, locate, scored
from gra.training.fusion.vocabulary import NONE, TokenTexts, map_tokens, read_texts
from gra.training.model_fit import check_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gra.models.catalog import ResolvedModel
    from gra.models.configuration import Known

# Raise when the same inputs begin to give other distributions; stored ones are then computed again.
METHOD = 1
_LITTLE = 0.5  # share of aligned tokens below which the run warns


@dataclass(frozen=True)
class StudentAnswers:
    """The distinct training rows as the student reads them; a weight repeats rows.

    Attributes:
        rows: the rows.
        ids: tokens of each answer.
        begins: place of each answer's first token in its row.
        located: where each answer's tokens lie in its content; None where they do not spell it.
        texts: of the student's vocabulary.
        index: the distinct row of every training row.
    """

    rows: list[Row]
    ids: list[list[int]]
    begins: list[int]
    located: list[AnswerTokens | None]
    texts: TokenTexts
    index: list[int]

    @property
    def tokens(self) -> int:
        """Return how many answer tokens the distinct rows have."""
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class TeacherRow:
    """One row as a teacher reads it.

    Attributes:
        ids: its tokens, prompt and answer.
        begins: place of the answer's first token.
        aligned: places of the aligned tokens in the answer.
        positions: their partners in the student's row.
        scored: places of the tokens in the answer that the cross-entropy sums.
        count: the tokens of the student that it is divided by.
    """

    ids: list[int]
    begins: int
    aligned: Places
    positions: Places
    scored: Places
    count: int


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher with its aligned rows.

    Attributes:
        section: of the recipe.
        known: its configuration and weights.
        template: fingerprint of its chat template.
        rows: the distinct rows; None where the teacher has nothing to say about a row.
        misfits: why, by row number.
        token_map: the student's token for each of the teacher's.
        top_k: tokens of a distribution that are kept.
    """

    section: FusionTeacherConfig
    known: Known
    template: str
    rows: list[TeacherRow | None]
    misfits: dict[int, str]
    token_map: NDArray[np.int32]
    top_k: int

    @property
    def name(self) -> str:
        """Return the teacher's name in the recipe."""
        return self.section.name

    @property
    def model(self) -> ResolvedModel:
        """Return the teacher's weights, which are on this machine once a run is planned."""
        assert self.known.model is not None
        return self.known.model

    @property
    def aligned(self) -> int:
        """Return how many answer tokens of the student have a partner."""
        return sum(len(row.positions) for row in self.rows if row is not None)

    @cached_property
    def key(self) -> str:
        """Return the digest of everything that the stored distributions follow from."""
        content = hashlib.sha256(self.token_map.tobytes())
        for row in self.rows:
            if row is None:
                content.update(b"-")
                continue
            for part in (row.ids, row.aligned, row.positions, row.scored, [row.begins, row.count]):
                content.update(np.asarray([len(part), *part], dtype=np.int64).tobytes())
        return digest([METHOD, self.model.identity, self.section.dtype, self.top_k, content.hexdigest()])


@dataclass(frozen=True)
class FusionPlan:
    """The aligned teachers of a run."""

    student: StudentAnswers
    teachers: list[PlannedTeacher]
    warnings: list[str] = field(default_factory=list)

    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the teachers that decide the result, flat."""
        return {
            f"fusion.teachers.{at}": f"{teacher.model.identity} {teacher.section.dtype} {teacher.template}"
            for at, teacher in enumerate(self.teachers)
        }

    def describe(self) -> dict[str, Any]:
        """Return for each teacher the share of answer tokens that are aligned, and the rows that are not."""
        return {
            teacher.name: {
                "aligned": round(teacher.aligned / self.student.tokens, 4),
                "rows_without": len(teacher.misfits),
            }
            for teacher in self.teachers
        }


def student_answers(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> StudentAnswers:
    """Return the distinct training rows with the places of their answers."""
    first: dict[str, int] = {}
    found = StudentAnswers([], [], [], [], read_texts(tokenizer), [])
    for place, row in enumerate(encoded.rows):
        if row.origin not in first:
            first[row.origin] = len(found.rows)
            labels = encoded.columns["labels"][place]
            begin = next(at for at, label in enumerate(labels) if label != IGNORED)
            found.rows.append(row)
            found.ids.append(labels[begin:])
            found.begins.append(begin)
            found.located.append(locate(labels[begin:], found.texts, row.completion[-1]["content"]))
        found.index.append(first[row.origin])
    return found


def plan_fusion(
    loaded: Loaded[TrainRecipe], tokenizer: PreTrainedTokenizerBase, encoded: Encoded, known: Sequence[Known]
) -> FusionPlan:
    """Check every teacher's weights, and align it with the student.

    Args:
        loaded: The recipe, with a `fusion` section.
        tokenizer: The student's.
        encoded: The training rows.
        known: What is known of each teacher, in the recipe's order; its folder holds a tokenizer.

    Raises:
        RecipeError: When a teacher cannot be aligned with any row, or has no fast tokenizer or chat template. Also
            when its weights and configuration do not fit each other.
    """
    fusion = loaded.recipe.fusion
    assert fusion is not None
    _require_fast(tokenizer, f"`model.name: {loaded.recipe.model.name}`", loaded)
    student = student_answers(tokenizer, encoded)
    plan = FusionPlan(student, [])
    for at, (section, one) in enumerate(zip(fusion.teachers, known, strict=True)):
        if one.config is not None:
            plan.warnings.extend(check_model(section.name, one, loaded)[1])
        teacher = _plan_teacher(loaded, f"fusion.teachers.{at}", section, one, student, fusion.top_k)
        plan.teachers.append(teacher)
        share = teacher.aligned / student.tokens
        if share < _LITTLE:
            plan.warnings.append(
                f"{section.name} is aligned with {share:.0%} of the answers' tokens; at the others it teaches nothing"
            )
        if teacher.misfits:
            place, why = next(iter(teacher.misfits.items()))
            plan.warnings.append(
                f"{section.name} says nothing about {len(teacher.misfits)} of {len(student.rows)} rows, such as "
                f"{student.rows[place].origin}: {why}"
            )
    return plan


def _plan_teacher(
    loaded: Loaded[TrainRecipe],
    key: str,
    section: FusionTeacherConfig,
    known: Known,
    student: StudentAnswers,
    top_k: int,
) -> PlannedTeacher:
    assert known.folder is not None
    remote = bool(known.model and known.model.remote_code)
    tokenizer = chat_tokenizer(
        known.folder, section.name, section.chat_template, loaded.path, key=key, remote_code=remote
    )
    _require_fast(tokenizer, f"`{key}.name: {section.name}`", loaded)
    texts = read_texts(tokenizer)
    rows, misfits = _aligned_rows(loaded, key, section.name, tokenizer, texts, known.config, student)
    token_map = map_tokens(texts, student.texts)
    teacher = PlannedTeacher(section, known, fingerprint(tokenizer), rows, misfits, token_map, top_k)
    if not teacher.aligned or (token_map == NONE).all():
        why = f", for example {next(iter(misfits.values()))}" if misfits else ""
        raise RecipeError(
            f"`{key}` ({section.name}): no token of any answer is aligned with one of {loaded.recipe.model.name}"
            f"{why}; it has nothing to teach here. Name another teacher, or set `{key}.chat_template`",
            loaded.path,
        )
    return teacher


def _aligned_rows(
    loaded: Loaded[TrainRecipe],
    key: str,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    texts: TokenTexts,
    config: Any,
    student: StudentAnswers,
) -> tuple[list[TeacherRow | None], dict[int, str]]:
    """Return the rows as the teacher reads them, and why it says nothing about some."""
    room = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    numbers = {row.origin: number for number, row in enumerate(student.rows)}
    rows: list[TeacherRow | None] = [None] * len(student.rows)
    misfits = {number: "its chat template cannot write the row" for number in range(len(rows))}
    try:
        for row, prompt, (answer,) in tokenized(tokenizer, student.rows, Encoded(), 1.0):
            number = numbers[row.origin]
            ours, theirs = student.located[number], locate(answer, texts, row.completion[-1]["content"])
            if room is not None and len(prompt) + len(answer) > room:
                misfits[number] = f"the row has {len(prompt) + len(answer)} tokens and the teacher reads {room}"
            elif ours is None or theirs is None:
                whose = "the student's" if ours is None else "its"
                misfits[number] = f"{whose} tokens do not spell the answer"
            else:
                positions, aligned = align(ours, theirs)
                count, places = scored(ours, theirs)
                rows[number] = TeacherRow(
                    prompt + answer, len(prompt), aligned, positions + student.begins[number], places, max(1, count)
                )
                del misfits[number]
    except (DataError, RecipeError) as error:
        raise RecipeError(f"`{key}` ({name}): {error}", loaded.path) from None
    return rows, misfits


def _require_fast(tokenizer: PreTrainedTokenizerBase, whose: str, loaded: Loaded[TrainRecipe]) -> None:
    if not tokenizer.is_fast:
        raise RecipeError(
            f"{whose} has a tokenizer written in Python, and fusion needs one with a tokenizer.json; name another "
            "model",
            loaded.path,
        )
