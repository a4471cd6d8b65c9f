"""Plan a run for `--dry-run` on any machine, without its GPUs and without reading weights.

Facts that are not known here (no tokenizer, no configuration) are listed under `unknown` and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.core.hardware import width
from gra.core.hashing import digest
from gra.training.adapters import adapter_config, adapter_folder, lora_config
from gra.training.data.dataset import Split
from gra.training.data.tokenize import Encoded, fingerprint, student_tokenizer
from gra.training.fusion.plan import plan_fusion
from gra.training.launch import Launch
from gra.training.memory import Shape, estimate, shape_of
from gra.training.methods import METHODS
from gra.training.model_fit import readable
from gra.training.options.steps import effective_batch, packed_rows, steps
from gra.training.options.trl_config import check_arguments
from gra.training.plan import (
    answer_room,
    check_fit,
    check_teacher,
    encode_split,
    inputs_of,
    model_name,
    read_data,
    row_limit,
)
from gra.training.quantization import quantization_problem


def preview(
    loaded: Loaded[TrainRecipe], launch: Launch, *, cpu: bool, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Check the recipe and the rows; count rows, tokens, optimizer steps and memory for `launch`.

    Args:
        loaded: The recipe.
        launch: How the run will be spread over processes.
        cpu: Whether it will run on the CPU.
        say: Receives notes about look-ups.

    Raises:
        RecipeError, DataError: With the line of the recipe, or the file and row, that is wrong.
    """
    from transformers.utils import is_flash_attn_2_available

    from gra.models.configuration import find_configuration

    options, recipe = check_arguments(loaded), loaded.recipe
    split, files = read_data(loaded)
    adapter_folder(loaded)
    with readable(recipe.model.name, loaded.path):
        student = find_configuration(model_name(recipe.model), accept_licenses=recipe.accept_licenses, progress=say)
    seen: dict[str, Any] = {
        "name": recipe.name,
        "method": recipe.method,
        "model": student.model.identity if student.model else recipe.model.name,
        "configuration": student.source,
        "data": files,
        "launch": launch.describe(),
    }
    warnings = [problem] if recipe.model.quantization and (problem := quantization_problem(launch, cpu=cpu)) else []
    unknown: list[str] = []
    encoded: Encoded | None = None
    tokenizer = None
    both: tuple[Encoded, ...] = ()
    if student.folder is None:
        unknown.append("tokens, truncation, the template and a decoded row: the tokenizer is not on this machine")
    else:
        tokenizer = student_tokenizer(student.folder, loaded)  # a dry run executes no remote code
        both = encoded, heldout = encode_split(recipe, options, tokenizer, split, loaded.path)
        seen["rows"] = {"read": split.read, "train": encoded.counts(), "heldout": heldout.counts()}
        seen |= {"template": fingerprint(tokenizer), "row": METHODS[recipe.method].show(tokenizer, encoded)}
        if student.model is not None and recipe.teacher is None and recipe.fusion is None:
            set_aside = len(encoded.set_aside) + len(heldout.set_aside)
            inputs = inputs_of(loaded, options, student.model.identity, seen["template"], files, set_aside)
            seen["fingerprint"] = digest(inputs)
    seen.setdefault("rows", {"read": split.read, "train": {"rows": len(split.train)},
                             "heldout": {"rows": len(split.heldout)}})  # fmt: skip
    rows, longest = _rows_and_longest(recipe, options, split, encoded)
    if options.get("packing") and encoded is None:
        unknown.append("how many rows packing leaves; `steps` counts every row for itself")
    seen |= {"steps": steps(options, rows, launch.processes), "batch": effective_batch(options, launch.processes)}
    if student.config is None:
        unknown.append(f"memory: not even the configuration of {student.source}")
    else:
        if recipe.model.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
            warnings.append(
                "`model.attn_implementation: flash_attention_2` needs a GPU and the package flash-attn here"
            )
        warnings += check_fit(loaded, options, both, tokenizer, student)
        teacher, notes, missing = _teacher(loaded, tokenizer, say)
        warnings, unknown = warnings + notes, unknown + missing
        shape = shape_of(student.config, _adapter_config(loaded), scores=METHODS[recipe.method].scores)
        seen["memory"] = estimate(recipe, options, shape, launch, longest=longest, cpu=cpu, teacher=teacher)
    if recipe.fusion is not None:
        seen["fusion"], notes, missing = _fusion(loaded, tokenizer, encoded, say, cpu=cpu)
        warnings, unknown = warnings + notes, unknown + missing
    return {**seen, "warnings": warnings, "unknown": unknown}


def _rows_and_longest(
    recipe: TrainRecipe, options: dict[str, Any], split: Split, encoded: Encoded | None
) -> tuple[int, int]:
    """Return the rows after packing and the tokens of the longest, or the allowed length without a tokenizer."""
    limit = row_limit(recipe, options)
    written = answer_room(recipe, options)
    if encoded is None:
        return len(split.train), (limit or 1024) + written
    lengths = encoded.lengths()
    if options.get("packing"):
        return packed_rows(lengths, options), int(limit or max(lengths))
    return len(lengths), max(lengths) + written


def _teacher(
    loaded: Loaded[TrainRecipe], tokenizer: Any, say: Callable[[str], None]
) -> tuple[Shape | None, list[str], list[str]]:
    """Return the teacher's shape, warnings, and what is not known of it."""
    from gra.models.configuration import find_configuration

    recipe = loaded.recipe
    if recipe.teacher is None:
        return None, [], []
    with readable(recipe.teacher.name, loaded.path):
        teacher = find_configuration(model_name(recipe.teacher), accept_licenses=recipe.accept_licenses, progress=say)
    if teacher.config is None:
        return None, [], [f"the teacher's memory: not even the configuration of {teacher.source}"]
    return shape_of(teacher.config), check_teacher(loaded, tokenizer, teacher), []


def _fusion(
    loaded: Loaded[TrainRecipe], tokenizer: Any, encoded: Encoded | None, say: Callable[[str], None], *, cpu: bool
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return how the teachers' tokens align with the student's, warnings, and what is not known."""
    from gra.models.configuration import find_configuration

    recipe, known = loaded.recipe, []
    assert recipe.fusion is not None
    for section in recipe.fusion.teachers:
        with readable(section.name, loaded.path):
            name = model_name(section)
            known.append(find_configuration(name, accept_licenses=recipe.accept_licenses, progress=say))
    seen: dict[str, Any] = {
        # One teacher at a time is in memory, before the student.
        section.name: {"gb": round(shape_of(one.config).total * width(section.dtype, on_gpu=not cpu) / 1e9, 2)}
        for section, one in zip(recipe.fusion.teachers, known, strict=True)
        if one.config is not None
    }
    if tokenizer is None or encoded is None or any(one.folder is None for one in known):
        return seen, [], ["how the teachers' tokens align: not every tokenizer is on this machine"]
    plan = plan_fusion(loaded, tokenizer, encoded, known)
    return {name: seen.get(name, {}) | facts for name, facts in plan.describe().items()}, plan.warnings, []


def _adapter_config(loaded: Loaded[TrainRecipe]) -> Any:
    folder = adapter_folder(loaded)
    return lora_config(loaded.recipe) if folder is None else adapter_config(loaded, folder)


def arithmetic(loaded: Loaded[TrainRecipe], launch: Launch, rows: int) -> dict[str, Any]:
    """Return steps and memory of a recipe for `rows` rows of full length, without reading data.

    Raises:
        RecipeError: The recipe is wrong, or nothing is known of its model.
    """
    from gra.models.configuration import find_configuration

    options, recipe = check_arguments(loaded), loaded.recipe
    student = find_configuration(model_name(recipe.model), accept_licenses=recipe.accept_licenses)
    shape = shape_of(student.config, lora_config(recipe), scores=METHODS[recipe.method].scores)
    memory = estimate(recipe, options, shape, launch, longest=row_limit(recipe, options) or 1024, cpu=False)
    return {
        "steps": steps(options, rows, launch.processes),
        "batch": effective_batch(options, launch.processes),
        **memory,
    }
