"""Check the `train:` section of a recipe against the installed TRL: names, types, values and contradictions.

A key that TRL does not know is an error and never a silent default. So an upgrade of TRL breaks a test of GRA and not a
user's run.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gra.config.loader import Loaded, Where, load_recipe
from gra.config.problems import did_you_mean, place
from gra.config.training import TrainRecipe
from gra.core.errors import RecipeError
from gra.training.methods import METHODS
from gra.training.options import option_tables as tables

Options = dict[str, Any]
T = TypeVar("T", bound=TrainRecipe)


def load_train_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Loaded[TrainRecipe]:
    """Read a training recipe; its schema and its `train:` section are checked together.

    Raises:
        RecipeError: Naming every problem at once with its line.
    """
    return load_trained(path, TrainRecipe, overrides)


def load_trained(path: Path | str, schema: type[T], overrides: Sequence[str] = ()) -> Loaded[T]:
    """Read a recipe of this kind, which has the sections of a training recipe; see `load_train_recipe`.

    Raises:
        RecipeError: Naming every problem at once with its line.
    """
    belongs = {name: f"it belongs to the `train` section: `train.{name}`" for name in _fields(_config_class("sft"))}
    belongs |= {name: what for name, what in tables.RENAMED.items() if name not in belongs}
    return load_recipe(path, schema, overrides, check=_problems_of_values, elsewhere=belongs)


def check_arguments(loaded: Loaded[TrainRecipe]) -> Options:
    """Return the `train:` section over GRA's defaults, checked field by field.

    Raises:
        RecipeError: Naming every unknown, renamed, reserved, mistyped or contradictory option with its line.
    """
    recipe = loaded.recipe
    config = config_class(recipe)
    checked, problems = _check(
        recipe.train, config, lambda key: place(loaded.origins, key, loaded.path), recipe.data.holdout.fraction > 0
    )
    if problems:
        raise RecipeError(problems, loaded.path)
    return checked


def build_arguments(loaded: Loaded[TrainRecipe], checkpoints: Path) -> Any:
    """Return the TRL configuration of this run on this device.

    Args:
        loaded: The recipe.
        checkpoints: The folder for checkpoints.

    Raises:
        RecipeError: When the options contradict each other.
    """
    recipe, options = loaded.recipe, check_arguments(loaded)
    options |= {
        "output_dir": str(checkpoints),
        "report_to": "none",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
        "prediction_loss_only": True,
    }
    if METHODS[recipe.method].config == "SFTConfig":
        options["completion_only_loss"] = True
    options |= _device_options(options, recipe.model.dtype)
    options.pop("model_init_kwargs", None)  # the model is loaded before TRL sees it
    try:
        return config_class(recipe)(**options)
    except ValueError as error:
        raise RecipeError(f"TRL refuses the `train` section: {error}", loaded.path) from None


def config_class(recipe: TrainRecipe) -> Any:
    """Return the TRL configuration class for the `train` section."""
    return _config_class(recipe.method, recipe.teacher is not None and recipe.teacher.vocabulary == "other")


def _config_class(method: str, other_vocabulary: bool = False) -> Any:
    import trl

    if method == "distill" and other_vocabulary:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # GRA reports it
        from trl.experimental.gold import GOLDConfig

        return GOLDConfig
    return getattr(trl, METHODS[method].config)


def on_cpu(train: Mapping[str, Any]) -> bool:
    """Return whether this run trains on the CPU: on request, or without an accelerator."""
    import torch

    asked = train.get("use_cpu") or os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    return bool(asked) or not torch.accelerator.is_available()


def _device_options(options: Options, dtype: str) -> Options:
    import torch

    half = options.get("fp16") or False
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"  # DeepSpeed insists that both agree
    if on_cpu(options):
        # Frozen weights have the type that this CPU computes at speed, so autocast gains nothing more.
        return {"use_cpu": True, "bf16": options.get("bf16", launched), "dataloader_pin_memory": False}
    supported = launched or dtype == "bfloat16" or (torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return {"bf16": options.get("bf16", supported and not half)}


def _problems_of_values(values: dict[str, Any], where: Where) -> list[str]:
    """Return the problems of a `train:` section before the rest of the recipe is checked."""

    def section(name: str) -> dict[str, Any]:
        found = values.get(name)
        return found if isinstance(found, dict) else {}

    method = values.get("method", "sft")
    config = _config_class(
        method if isinstance(method, str) and method in METHODS else "sft",
        section("teacher").get("vocabulary") == "other",
    )
    holdout = section("data").get("holdout")
    return _check(section("train"), config, where, bool(isinstance(holdout, dict) and holdout.get("fraction")))[1]


def _check(train: Mapping[str, Any], config: Any, where: Where, holdout: bool) -> tuple[Options, list[str]]:
    fields = _fields(config)
    hints = typing.get_type_hints(config)
    ours = tables.OURS | (tables.OURS_OF_DISTILL if "teacher_model_name_or_path" in fields else {})
    checked, problems = dict(tables.DEFAULTS), []
    for key, value in train.items():
        problem = _name_problem(key, fields, ours, config.__name__)
        if problem is None:
            problem, checked[key] = _value_problem(
                key, hints[key], fields[key].metadata.get("choices") or tables.CHOICES.get(key), value
            )
        if problem is not None:
            checked.pop(key, None)
            problems.append(f"{where(('train', key))}: `train.{key}` {problem}")
    for key, problem in _contradictions(checked, train, holdout):
        problems.append(f"{where(('train', key))}: `train.{key}` {problem}")
    return checked, problems


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(config)}


def _name_problem(key: str, fields: Mapping[str, Any], ours: Mapping[str, str], config: str) -> str | None:
    if key in ours and key in fields:
        return f"is set by GRA: {ours[key]}"
    if key in fields:
        return None
    if key in tables.RENAMED:
        return f"is not an option of this TRL: {tables.RENAMED[key]}"
    near = did_you_mean(key, [*fields, *tables.RENAMED])
    return f"is not an option of trl.{config}{near or '; see the TRL documentation for their names'}"


def _value_problem(key: str, hint: Any, choices: Any, value: Any) -> tuple[str | None, Any]:
    """Return what is wrong with a value, if anything, and the value as the field's type."""
    options = typing.get_args(hint) or (hint,)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, enum.Enum)]
    if enums and isinstance(value, str):
        choices = [member.value for member in enums[0]]
    for item in value if isinstance(value, list) else [value]:
        if choices and item is not None and item not in list(choices):
            near = did_you_mean(str(item), [str(choice) for choice in choices])
            return f"must be one of {', '.join(map(str, choices))}, not {item!r}{near}", value
    if isinstance(value, str) and any(typing.get_origin(option) is dict or option is dict for option in options):
        return f"should be a mapping of keys to values, not {value!r}", value
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False))
        typed = adapter.validate_python(value)
    except ValidationError as error:
        expected = dict.fromkeys(item["msg"].removeprefix("Input should be ").lower() for item in error.errors())
        return f"should be {' or '.join(expected)}, not {value!r}", value
    return _sense_problem(key, value), typed


def _sense_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with a value of the right type, or None."""
    if isinstance(value, (bool, str)) and (key, value) in tables.REFUSED:
        return f"`{value}` {tables.REFUSED[key, value]}" if isinstance(value, str) else tables.REFUSED[key, value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        allowed = tables.RANGES.get(key)
        if allowed is not None and allowed.refuses(value):
            return f"must be {allowed}, not {value!r}"
        if key in tables.SHARE_OR_COUNT and value > 1 and value != int(value):
            return f"is a share of all steps below 1 and a whole number of steps from 1 on, not {value!r}"
    if key == "pad_to_multiple_of" and isinstance(value, str) and value != "auto":
        return f"must be auto or a whole number, not {value!r}"
    if key == "optim" and isinstance(value, str):
        for part, module, package in tables.OPTIMISER_PACKAGES:
            if part in value and importlib.util.find_spec(module) is None:
                return f"`{value}` needs the package {package}, which is not installed: pip install {package}"
            if part in value:
                break
    if key == "model_init_kwargs" and isinstance(value, dict):
        for name in value:
            if name in tables.MODEL_KEYS:
                return f"has `{name}`, which the `model` section decides"
    return None


def _contradictions(options: Options, given: Mapping[str, Any], holdout: bool) -> Iterator[tuple[str, str]]:
    """Yield options that contradict others, and the problem."""
    schedule = _text(options.get("lr_scheduler_type"))
    evaluates = _text(options.get("eval_strategy", "no")) != "no"
    kwargs = options.get("lr_scheduler_kwargs") or {}
    needed = tables.SCHEDULE_NEEDS.get(schedule)
    if options.get("fp16") and options.get("bf16"):
        yield "fp16", "and `bf16` cannot both be true"
    if options.get("fp16") and options.get("use_cpu"):
        yield "fp16", "is for GPUs; leave it out with `use_cpu: true`"
    if options.get("packing") and "max_length" in given and options.get("max_length", 0) is None:
        yield "packing", "needs a `max_length` to pack to"
    if options.get("eval_packing") and not options.get("packing"):
        yield "eval_packing", "without `packing` measures other rows than are trained on; set both or neither"
    if options.get("packing") and options.get("train_sampling_strategy") == "group_by_length":
        yield "train_sampling_strategy", "group_by_length sorts by length what `packing` has made equally long"
    if evaluates and not holdout:
        yield "eval_strategy", "needs held-out rows; set `data.holdout.fraction`"
    if options.get("eval_on_start") and not holdout:
        yield "eval_on_start", "needs held-out rows; set `data.holdout.fraction`"
    if schedule == "reduce_lr_on_plateau" and not evaluates:
        yield "lr_scheduler_type", "reduce_lr_on_plateau needs an `eval_strategy`"
    if needed and not any(name in kwargs for name in needed):
        yield "lr_scheduler_type", f"{schedule} needs `lr_scheduler_kwargs: {{{' or '.join(needed)}: ...}}`"
    if schedule == "constant" and options.get("warmup_steps"):
        yield "warmup_steps", "has no effect on the schedule `constant`; use constant_with_warmup"
    if 1 <= options.get("max_steps", -1) < options.get("warmup_steps", 0):
        yield "warmup_steps", "is more than `max_steps`; the rate would never reach `learning_rate`"
    if options.get("gradient_checkpointing_kwargs") and options.get("gradient_checkpointing") is False:
        yield "gradient_checkpointing_kwargs", "has no effect with `gradient_checkpointing: false`"
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if options.get(name) and not options.get("dataloader_num_workers"):
            yield name, "needs `dataloader_num_workers` above 0"
    if options.get("optim_target_modules") and not _text(options.get("optim")).startswith(("galore", "apollo")):
        yield "optim_target_modules", "is for the optimizers galore_* and apollo_* only"


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value or "")
