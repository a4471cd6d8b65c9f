"""The `train:` section of a recipe against the installed trl.SFTConfig: names, types and choices, all at once.

A key that TRL does not know is an error here, never a silent default; so a TRL upgrade breaks a test
of ours and not a user's run.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gra.core.errors import RecipeError
from gra.core.recipe import KeyPath, Loaded, did_you_mean
from gra.core.schema import TrainRecipe

if TYPE_CHECKING:
    from trl import SFTConfig

# Names people know from older releases, other trainers or other sections, and what to write now.
RENAMED = {
    "activation_checkpointing": "this release calls it `gradient_checkpointing`",
    "attn_implementation": "set `model.attn_implementation`",
    "batch_size": "use `per_device_train_batch_size`",
    "dtype": "set `model.dtype`",
    "epochs": "use `num_train_epochs`",
    "evaluation_strategy": "renamed to `eval_strategy`",
    "group_by_length": "use `train_sampling_strategy: group_by_length`",
    "logging_dir": "gone; the `tracking` section says where runs are tracked",
    "lora_alpha": "set `lora.alpha`",
    "lora_dropout": "set `lora.dropout`",
    "lora_r": "set `lora.r`",
    "lora_target_modules": "set `lora.target_modules`",
    "lr": "use `learning_rate`",
    "max_seq_length": "renamed to `max_length`",
    "max_seq_len": "renamed to `max_length`",
    "model_name_or_path": "set `model.name`",
    "no_cuda": "use `use_cpu`",
    "num_epochs": "use `num_train_epochs`",
    "overwrite_output_dir": "gone; `--fresh` starts a run over",
    "per_gpu_train_batch_size": "use `per_device_train_batch_size`",
    "save_safetensors": "gone; weights are always saved as safetensors",
    "torch_dtype": "set `model.dtype`",
    "use_peft": "write a `lora` section",
    "warmup_ratio": "use `warmup_steps`; a number below 1 is a share of all steps",
}

_LOSS = "the loss is always on the completion, its stop token included"
_HUB = "training does not upload; push the finished folder with `hf upload`"
_LAUNCH = "choose it with `accelerate launch --config_file recipes/accelerate/...yaml`"
# Options that exist in TRL but that GRA decides, with the reason.
OURS = {
    "accelerator_config": _LAUNCH,
    "assistant_only_loss": _LOSS,
    "chat_template_path": "set `model.chat_template`",
    "completion_only_loss": _LOSS,
    "dataset_kwargs": "GRA tokenises the rows itself",
    "dataset_text_field": "rows have `prompt` and `completion` columns",
    "deepspeed": _LAUNCH,
    "disable_tqdm": "progress is shown by GRA",
    "do_eval": "held-out rows are evaluated when `data.holdout.fraction` is above 0",
    "do_predict": "use eval/run.py",
    "do_train": "train.py always trains",
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "hub_always_push": _HUB,
    "hub_model_id": _HUB,
    "hub_private_repo": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "ignore_data_skip": "a resumed run sees exactly the rows it has not seen",
    "include_num_input_tokens_seen": "GRA counts tokens, padding excluded",
    "length_column_name": "GRA tokenises the rows itself",
    "local_rank": "the launcher sets it",
    "output_dir": "give `--output DIR` on the command line",
    "pad_token": "the tokenizer's own padding token is used",
    "parallelism_config": _LAUNCH,
    "project": "set `tracking.project`",
    "push_to_hub": _HUB,
    "remove_unused_columns": "GRA tokenises the rows itself",
    "report_to": "set `tracking.wandb`",
    "restore_callback_states_from_checkpoint": "a resumed run restores what it needs",
    "resume_from_checkpoint": "an interrupted run goes on by itself; `--fresh` starts over",
    "run_name": "the recipe's `name` is used",
    "save_only_model": "checkpoints must be resumable",
    "trackio_bucket_id": "set the `tracking` section",
    "trackio_space_id": "set the `tracking` section",
    "trackio_static_space_id": "set the `tracking` section",
    "truncation_mode": "long rows lose their end and are counted",
    "use_liger_kernel": "deprecated in TRL; write `model_init_kwargs: {use_kernels: true}`",
}

# What GRA prefers over TRL's own defaults; a recipe overrides it.
DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 0.25,  # of all steps
    "save_total_limit": 2,  # the newest and, should it be half-written, the one before
    "seed": 42,
}


def check_arguments(loaded: Loaded[TrainRecipe]) -> dict[str, Any]:
    """The `train:` section over GRA's defaults, checked field by field.

    Raises:
        RecipeError: naming every unknown, renamed, reserved or mistyped option with its line.
    """
    from trl import SFTConfig

    fields = {field.name: field for field in dataclasses.fields(SFTConfig)}
    hints = typing.get_type_hints(SFTConfig)
    checked, problems = dict(DEFAULTS), []
    for key, value in loaded.recipe.train.items():
        problem = _name_problem(key, fields)
        if problem is None:
            problem, checked[key] = _value_problem(hints[key], fields[key].metadata.get("choices"), value)
        if problem is not None:
            problems.append(f"{_where(loaded.origins, ('train', key))}: `train.{key}` {problem}")
    if problems:
        raise RecipeError(problems, loaded.path)
    return checked


def build_arguments(loaded: Loaded[TrainRecipe], checkpoints: Path) -> SFTConfig:
    """The SFTConfig of this run on this device; checkpoints go to `checkpoints`.

    Raises:
        RecipeError: when the options contradict each other.
    """
    options = check_arguments(loaded)
    options |= {
        "output_dir": str(checkpoints),
        "report_to": "none",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
        "completion_only_loss": True,
        "prediction_loss_only": True,
    }
    options |= _device_options(options, loaded.recipe.model.dtype)
    options.pop("model_init_kwargs", None)  # the model is loaded before TRL sees it
    from trl import SFTConfig

    try:
        return SFTConfig(**options)
    except ValueError as error:
        raise RecipeError(f"TRL refuses the `train` section: {error}", loaded.path) from None


def on_cpu(train: dict[str, Any]) -> bool:
    """Whether this run trains on the CPU: asked for, or there is nothing else."""
    import torch

    asked = train.get("use_cpu") or os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    return bool(asked) or not torch.accelerator.is_available()


def _device_options(options: dict[str, Any], dtype: str) -> dict[str, Any]:
    import torch

    half = options.get("fp16") or False
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"  # DeepSpeed insists that both agree
    if on_cpu(options):
        # `model.dtype: bfloat16` halves the time of a step; autocast on top of it gains nothing more on a CPU.
        return {"use_cpu": True, "bf16": options.get("bf16", launched), "dataloader_pin_memory": False}
    supported = launched or dtype == "bfloat16" or (torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return {"bf16": options.get("bf16", supported and not half)}


def _name_problem(key: str, fields: dict[str, Any]) -> str | None:
    if key in OURS:
        return f"is set by GRA: {OURS[key]}"
    if key in fields:
        return None
    if key in RENAMED:
        return f"is not an option of this TRL: {RENAMED[key]}"
    near = did_you_mean(key, [*fields, *RENAMED])
    return f"is not an option of trl.SFTConfig{near or '; see the TRL documentation for their names'}"


def _value_problem(hint: Any, choices: Any, value: Any) -> tuple[str | None, Any]:
    """What is wrong with a value, if anything, and the value as the field's type."""
    options = typing.get_args(hint) or (hint,)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, enum.Enum)]
    if enums and isinstance(value, str):
        choices = [member.value for member in enums[0]]
    if choices and value is not None and value not in list(choices):
        near = did_you_mean(str(value), [str(choice) for choice in choices])
        return f"must be one of {', '.join(map(str, choices))}, not {value!r}{near}", value
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
        return None, adapter.validate_python(value)
    except ValidationError as error:
        expected = dict.fromkeys(item["msg"].removeprefix("Input should be ").lower() for item in error.errors())
        return f"should be {' or '.join(expected)}, not {value!r}", value


def _where(origins: dict[KeyPath, str], key: KeyPath) -> str:
    origin = origins.get(key) or origins.get(key[:1], "")
    return origin if origin.startswith("command line") else f"line {origin.rsplit(':', 1)[-1]}"
