"""Plan a training run before the student's weights are loaded.

A plan resolves the student, reads and tokenizes the rows, and checks that model, tokenizer and adapter fit. It names
the inputs that decide the result. Two runs with the same inputs make the same student, so resuming compares inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.config.loader import Loaded, find_file
from gra.config.training import TrainRecipe
from gra.core.errors import DataError, Mismatch, RecipeError
from gra.core.hashing import digest, file_digest
from gra.training.adapters import adapter_folder, check_adapter
from gra.training.data.dataset import Row, Split, split_rows
from gra.training.data.tokenize import Encoded, fingerprint, student_tokenizer
from gra.training.fusion.plan import FusionPlan, plan_fusion
from gra.training.methods import METHODS
from gra.training.model_fit import (
    check_model,
    check_positions,
    check_tokens,
    check_vocabularies,
    float_head,
    model_class,
    readable,
    short,
)
from gra.training.options.trl_config import check_arguments, on_cpu

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gra.models.catalog import ResolvedModel
    from gra.models.configuration import Known

# Raise when the same inputs begin to train another student.
METHOD = 2
# Options that change logs, checkpoints or speed, and never the weights.
_WITHOUT_EFFECT = frozenset(
    {"dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"}
    | {"dataset_num_proc", "ddp_timeout", "skip_memory_metrics", "torch_empty_cache_steps"}
    | {"log_level", "log_level_replica", "log_on_each_node"}
    | {"logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy"}
    | {"save_on_each_node", "save_steps", "save_strategy", "save_total_limit"}
)


@dataclass(frozen=True)
class TrainingPlan:
    """A checked run that is ready to start."""

    loaded: Loaded[TrainRecipe]
    options: dict[str, Any]
    model: ResolvedModel
    teacher: ResolvedModel | None
    tokenizer: PreTrainedTokenizerBase
    split: Split
    train: Encoded
    heldout: Encoded
    files: list[dict[str, Any]]
    template: str
    inputs: dict[str, Any]
    warnings: list[str]
    fusion: FusionPlan | None = None

    @property
    def recipe(self) -> TrainRecipe:
        """Return the recipe."""
        return self.loaded.recipe

    @property
    def fingerprint(self) -> str:
        """Return a digest of everything that decides the result."""
        return digest(self.inputs)

    def rows(self) -> dict[str, Any]:
        """Return counts for the report: rows read, in training and held out, tokens, truncated, dropped, set aside."""
        return {"read": self.split.read, "train": self.train.counts(), "heldout": self.heldout.counts()}

    def show(self) -> str:
        """Return one decoded row, with the part in the loss between marks."""
        return METHODS[self.recipe.method].show(self.tokenizer, self.train)


def make_plan(loaded: Loaded[TrainRecipe], say: Callable[[str], None] = lambda text: None) -> TrainingPlan:
    """Check the recipe, resolve the student, read, split and tokenize the rows, and check that all of it fits.

    Args:
        loaded: The recipe.
        say: Receives notes about downloads.

    Raises:
        RecipeError, DataError: With the line of the recipe, or the file and row, that is wrong.
        ModelUnavailable: When the student's weights cannot be had.
        Mismatch: When the weights or the data are not those that the recipe pins.
    """
    options = check_arguments(loaded)
    recipe = loaded.recipe
    split, files = read_data(loaded)

    model = find_student(recipe, say)
    teacher = _resolved(recipe, recipe.teacher, say) if recipe.teacher is not None else None
    teachers = [_resolved(recipe, each, say) for each in recipe.fusion.teachers] if recipe.fusion is not None else []
    student = stored(loaded, recipe.model.name, model)
    tokenizer = student_tokenizer(model.path, loaded, model.remote_code)
    train, heldout = encode_split(recipe, options, tokenizer, split, loaded.path)
    warnings = check_fit(loaded, options, (train, heldout), tokenizer, student)
    if teacher is not None:
        warnings += check_teacher(loaded, tokenizer, stored(loaded, teacher.name, teacher))
    template = fingerprint(tokenizer)
    inputs = inputs_of(loaded, options, model.identity, template, files, len(train.set_aside) + len(heldout.set_aside))
    if teacher is not None:
        inputs["teacher.identity"] = teacher.identity
    fusion = None
    if teachers:
        fusion = plan_fusion(loaded, tokenizer, train, [stored(loaded, each.name, each) for each in teachers])
        inputs |= fusion.inputs()
        warnings += fusion.warnings
    return TrainingPlan(
        loaded, options, model, teacher, tokenizer, split, train, heldout, files, template, inputs, warnings, fusion
    )


def find_student(recipe: TrainRecipe, say: Callable[[str], None]) -> ResolvedModel:
    """Return the student's weights, fetched where they are not here.

    Raises:
        ModelUnavailable: They cannot be had.
        Mismatch: They are not those that the recipe pins.
    """
    model = _resolved(recipe, recipe.model, say)
    if recipe.model.identity not in (None, model.identity):
        raise Mismatch(
            f"{recipe.model.name} here is {model.identity}, the recipe asks for {recipe.model.identity}; "
            "set `model.revision`, or remove `model.identity`"
        )
    return model


def _resolved(recipe: TrainRecipe, section: Any, say: Callable[[str], None]) -> ResolvedModel:
    """Return the weights that a section of the recipe names, fetched where they are not here."""
    from gra.models.catalog import resolve

    return resolve(
        model_name(section),
        accept_licenses=recipe.accept_licenses,
        progress=say,
        allow_remote_code=section.allow_remote_code,
    )


def stored(loaded: Loaded[TrainRecipe], name: str, model: ResolvedModel) -> Known:
    """Return the configuration of a model on this machine."""
    from transformers import AutoConfig

    from gra.models.configuration import Known

    with readable(name, loaded.path):
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.remote_code)
    return Known(model.source_note, config, model.path, model)


def check_fit(
    loaded: Loaded[TrainRecipe],
    options: Mapping[str, Any],
    encoded: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase | None,
    student: Known,
) -> list[str]:
    """Check that the student's weights, tokenizer, template, rows and adapter fit each other.

    Args:
        loaded: The recipe.
        options: The checked `train` section.
        encoded: Training and held-out rows.
        tokenizer: None when it is not on this machine.
        student: What is known of the student, with a configuration.

    Returns:
        Warnings that do not keep the run from starting, the rows that were set aside among them.

    Raises:
        RecipeError: When something does not fit.
    """
    recipe = loaded.recipe
    notes = [note for rows in encoded if (note := rows.note())]
    model, more = check_model(recipe.model.name, student, loaded, scores=METHODS[recipe.method].scores)
    notes += more
    if tokenizer is not None:
        notes += check_tokens(loaded, model, tokenizer, encoded)
        longest = max((length for rows in encoded for length in rows.lengths()), default=0)
        notes += check_positions(loaded, model, longest + answer_room(recipe, options))
    identity = student.model.identity if student.model else None
    return notes + check_adapter(loaded, model, adapter_folder(loaded), identity)


def check_teacher(loaded: Loaded[TrainRecipe], tokenizer: PreTrainedTokenizerBase | None, teacher: Known) -> list[str]:
    """Check the teacher's weights, and its vocabulary against the student's tokenizer where both are here.

    Raises:
        RecipeError: When something does not fit.
    """
    from gra.models.chat import load_tokenizer

    assert loaded.recipe.teacher is not None
    _, notes = check_model(loaded.recipe.teacher.name, teacher, loaded)
    if tokenizer is not None and teacher.folder is not None:
        theirs = load_tokenizer(teacher.folder, remote_code=bool(teacher.model and teacher.model.remote_code))
        check_vocabularies(loaded, tokenizer, theirs.get_vocab())
    return notes


def answer_room(recipe: TrainRecipe, options: Mapping[str, Any]) -> int:
    """Return the tokens that the trainer of `distill` writes after a prompt."""
    return int(options.get("max_completion_length", 512)) if METHODS[recipe.method].writes_answers else 0


def model_name(model: Any) -> str:
    """Return the name of a section that names a model, in the form of the catalog."""
    return f"{model.name}@{model.revision}" if model.revision else str(model.name)


def read_data(loaded: Loaded[TrainRecipe]) -> tuple[Split, list[dict[str, Any]]]:
    """Read the rows of every file and split them; return them and the files with their digests.

    Raises:
        RecipeError, DataError: When no file is named, one is not there, or a row is wrong.
        Mismatch: When a file is not the one that the recipe pins.
    """
    recipe = loaded.recipe
    if not recipe.data.train:
        raise RecipeError("`data.train` is empty; name a file: data.train='[{path: rows.parquet}]'", loaded.path)
    read = METHODS[recipe.method].read
    sources, files = [], []
    for source in recipe.data.train:
        path = find_file(source.path, loaded.path)
        if not path.is_file():
            raise DataError(f"{path} is a folder; name a .parquet or .jsonl file in it")
        found = file_digest(path)
        if source.sha256 not in (None, found):
            raise Mismatch(f"{path} is not the file that the recipe pins (SHA-256 {found[:12]}…); remove `sha256`")
        sources.append((read(path), source.weight))
        files.append({"path": str(path), "weight": source.weight, "sha256": found})
    return split_rows(sources, recipe.data.holdout.fraction, recipe.data.holdout.seed), files


def encode_split(
    recipe: TrainRecipe, options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, split: Split, where: Path
) -> tuple[Encoded, Encoded]:
    """Encode training and held-out rows as tokens.

    Raises:
        RecipeError, DataError: When a row does not fit the template, or none is left.
    """
    limit = row_limit(recipe, options)
    encode = METHODS[recipe.method].encode
    train = encode(tokenizer, split.train, limit, recipe.data.max_bad)
    if not len(train):
        if train.set_aside:
            raise DataError(f"no training row is left: {train.note()}")
        raise RecipeError(f"no row has an answer left within `train.max_length: {limit}`; raise it", where)
    return train, encode(tokenizer, split.heldout, limit, recipe.data.max_bad)


def row_limit(recipe: TrainRecipe, options: Mapping[str, Any]) -> int | None:
    """Return the tokens that a row may have; the trainer of `distill` limits only the answers that it writes."""
    limit: int | None = options.get("max_length", None if METHODS[recipe.method].writes_answers else 1024)
    return limit


def stop_rate_rows(plan: TrainingPlan) -> list[Row]:
    """Return the held-out rows whose prompts are answered to measure the stop rate."""
    return plan.split.heldout[: plan.recipe.stop_rate.prompts]


def load_student(plan: TrainingPlan) -> Any:
    """Load the student's weights; see `load_weights`."""
    return load_weights(plan.loaded, plan.options, plan.model)


def load_weights(loaded: Loaded[TrainRecipe], options: Mapping[str, Any], resolved: ResolvedModel) -> Any:
    """Load a student's weights, with the adapter that training goes on from.

    Args:
        loaded: The recipe.
        options: The checked `train` section.
        resolved: Where the weights are.

    Raises:
        RecipeError: When Transformers or PEFT refuses what the recipe asks for.
    """
    import torch
    from transformers import set_seed

    recipe, scores = loaded.recipe, METHODS[loaded.recipe.method].scores
    adapter = adapter_folder(loaded)
    quantized: dict[str, Any] = {}
    if recipe.model.quantization is not None:
        from gra.training.quantization import four_bit

        quantized = four_bit()
    one_label: dict[str, Any] = {}
    if scores:
        set_seed(options["seed"])  # a new head begins as random numbers
        one_label = {"num_labels": 1}
    try:
        model = model_class(scores).from_pretrained(
            resolved.path,
            dtype=getattr(torch, recipe.model.dtype),
            attn_implementation=recipe.model.attn_implementation,
            trust_remote_code=resolved.remote_code,
            use_safetensors=True,
            **quantized,
            **one_label,
            **(options.get("model_init_kwargs") or {}),
        )
        if scores:
            float_head(model)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{recipe.model.name} cannot be loaded as the `model` section and `train.model_init_kwargs` ask: "
            f"{short(error)}",
            loaded.path,
        ) from error
    return model


def use_all_cores(train: Mapping[str, Any]) -> None:
    """Share this machine's cores among its training processes, when they train on them."""
    import torch

    # Launchers set OMP_NUM_THREADS=1 by themselves, which would leave all cores but one idle.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ
    threads = os.environ.get("OMP_NUM_THREADS")
    if on_cpu(dict(train)) and (threads is None or (launched and threads == "1")):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def inputs_of(
    loaded: Loaded[TrainRecipe],
    options: Mapping[str, Any],
    identity: str,
    template: str,
    files: list[dict[str, Any]],
    set_aside: int = 0,
) -> dict[str, Any]:
    """Return the inputs that decide the result, flat, so that a difference can be named.

    Args:
        loaded: The recipe.
        options: The checked `train` section.
        identity: The student's.
        template: Fingerprint of the chat template.
        files: The training files with their digests.
        set_aside: Rows that do not fit the template.
    """
    recipe = loaded.recipe
    inputs: dict[str, Any] = {"method": METHOD, "model.identity": identity, "model.template": template}
    inputs |= {f"model.{key}": getattr(recipe.model, key) for key in ("dtype", "attn_implementation")}
    inputs |= {f"data.train.{at}": f"{file['sha256']} x {file['weight']:g}" for at, file in enumerate(files)}
    inputs |= {f"data.holdout.{key}": value for key, value in recipe.data.holdout.model_dump().items()}
    inputs |= {f"lora.{key}": value for key, value in (recipe.lora.model_dump() if recipe.lora else {}).items()}
    inputs |= {f"train.{key}": value for key, value in options.items() if key not in _WITHOUT_EFFECT}
    # Named only where they are used, so that runs without them keep their fingerprint.
    if set_aside:
        inputs["data.set_aside"] = set_aside
    adapter = adapter_folder(loaded)
    if adapter is not None:
        weights = {file.name: file_digest(file) for file in sorted(adapter.glob("adapter_*"))}
        inputs["model.adapter"] = digest(weights)
    if recipe.model.quantization is not None:
        inputs["model.quantization"] = recipe.model.quantization
    if recipe.method != "sft":
        inputs["recipe.method"] = recipe.method
    if recipe.teacher is not None:
        inputs |= {f"teacher.{key}": getattr(recipe.teacher, key) for key in ("dtype", "vocabulary")}
    if recipe.fusion is not None:
        inputs |= {f"fusion.{key}": getattr(recipe.fusion, key) for key in ("combine", "sft_weight", "top_k")}
    return inputs
