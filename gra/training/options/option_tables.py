"""List trainer options by their known names, by what GRA decides, and by the values that make sense.

Names and types of options come from the installed TRL (gra.training.options.trl_config). These tables hold what TRL
does not declare, or reports only after the weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Names of older releases, other trainers or other sections, and what to write now.
RENAMED = {
    "activation_checkpointing": "this release calls it `gradient_checkpointing`",
    "adam_beta": "use `adam_beta1` and `adam_beta2`",
    "attn_implementation": "set `model.attn_implementation`",
    "batch_size": "use `per_device_train_batch_size`",
    "betas": "use `adam_beta1` and `adam_beta2`",
    "bnb_4bit_quant_type": "set `model.quantization: nf4`",
    "chat_template": "set `model.chat_template`",
    "cutoff_len": "use `max_length`",
    "dataset_name": "list files under `data.train`",
    "dataset_mixer": "list files with weights under `data.train`",
    "datasets": "list files under `data.train`",
    "do_sample": "generation is not part of training",
    "dtype": "set `model.dtype`",
    "epochs": "use `num_train_epochs`",
    "eval_batch_size": "use `per_device_eval_batch_size`",
    "evaluation_strategy": "renamed to `eval_strategy`",
    "flash_attention": "set `model.attn_implementation: flash_attention_2`",
    "global_batch_size": "use `per_device_train_batch_size` x `gradient_accumulation_steps` x number of processes",
    "grad_accum": "use `gradient_accumulation_steps`",
    "group_by_length": "use `train_sampling_strategy: group_by_length`",
    "load_in_4bit": "set `model.quantization: nf4`",
    "load_in_8bit": "8-bit weights are not supported; set `model.quantization: nf4`",
    "logging_dir": "gone; the `tracking` section says where runs are tracked",
    "lora_alpha": "set `lora.alpha`",
    "lora_dropout": "set `lora.dropout`",
    "lora_r": "set `lora.r`",
    "lora_rank": "set `lora.r`",
    "lora_target": "set `lora.target_modules`",
    "lora_target_modules": "set `lora.target_modules`",
    "lr": "use `learning_rate`",
    "lr_scheduler": "use `lr_scheduler_type`",
    "max_grad_clip": "use `max_grad_norm`",
    "max_prompt_length": "gone; `max_length` limits prompt and answer together",
    "max_seq_len": "renamed to `max_length`",
    "max_seq_length": "renamed to `max_length`",
    "micro_batch_size": "use `per_device_train_batch_size`",
    "model_name_or_path": "set `model.name`",
    "neftune_alpha": "use `neftune_noise_alpha`",
    "no_cuda": "use `use_cpu`",
    "num_epochs": "use `num_train_epochs`",
    "optimizer": "use `optim`",
    "overwrite_output_dir": "gone; `--fresh` starts a run over",
    "per_gpu_eval_batch_size": "use `per_device_eval_batch_size`",
    "per_gpu_train_batch_size": "use `per_device_train_batch_size`",
    "save_safetensors": "gone; weights are always saved as safetensors",
    "scheduler": "use `lr_scheduler_type`",
    "sequence_len": "use `max_length`",
    "torch_dtype": "set `model.dtype`",
    "use_flash_attention_2": "set `model.attn_implementation: flash_attention_2`",
    "use_mps_device": "gone; the device is found by itself",
    "use_peft": "write a `lora` section",
    "wandb_project": "set `tracking.project`",
    "warmup": "use `warmup_steps`; a number below 1 is a share of all steps",
    "warmup_ratio": "use `warmup_steps`; a number below 1 is a share of all steps",
    "weight_decay_rate": "use `weight_decay`",
}

_LOSS = "the loss is always on the completion, its stop token included"
_HUB = "training does not upload; push the finished folder with `hf upload`"
_LAUNCH = "choose it with `accelerate launch --config_file recipes/accelerate/...yaml`"
_ROWS = "GRA tokenizes the rows itself"
_TRACKING = "set the `tracking` section"
_TEACHER = "write a `teacher` section"
_LAST = "the student is the last step's: the best on held-out rows would have another number of steps in every arm"
# Options that exist in TRL but that GRA decides, with the reason.
OURS = {
    "accelerator_config": _LAUNCH,
    "assistant_only_loss": _LOSS,
    "auto_find_batch_size": "a batch size that is found by trying makes another run each time; `--dry-run` estimates "
    "what fits",
    "batch_eval_metrics": "held-out rows are measured by their loss only",
    "chat_template_path": "set `model.chat_template`",
    "completion_only_loss": _LOSS,
    "dataset_kwargs": _ROWS,
    "dataset_text_field": "rows have `prompt` and `completion` columns",
    "deepspeed": _LAUNCH,
    "disable_tqdm": "progress is shown by GRA",
    "do_eval": "held-out rows are evaluated when `data.holdout.fraction` is above 0",
    "do_predict": "use eval/run.py",
    "do_train": "train.py always trains",
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "greater_is_better": _LAST,
    "hub_always_push": _HUB,
    "hub_model_id": _HUB,
    "hub_private_repo": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "ignore_data_skip": "a resumed run sees exactly the rows it has not seen",
    "include_for_metrics": "held-out rows are measured by their loss only",
    "include_num_input_tokens_seen": "GRA counts tokens, padding excluded",
    "label_names": _ROWS,
    "length_column_name": _ROWS,
    "load_best_model_at_end": _LAST,
    "local_rank": "the launcher sets it",
    "metric_for_best_model": _LAST,
    "output_dir": "give `--output DIR` on the command line",
    "pad_token": "the tokenizer's own padding token is used",
    "parallelism_config": _LAUNCH,
    "prediction_loss_only": "held-out rows are measured by their loss only",
    "project": "set `tracking.project`",
    "push_to_hub": _HUB,
    "remove_unused_columns": _ROWS,
    "report_to": "set `tracking.wandb`",
    "restore_callback_states_from_checkpoint": "a resumed run restores what it needs",
    "resume_from_checkpoint": "an interrupted run goes on by itself; `--fresh` starts over",
    "run_name": "the recipe's `name` is used",
    "save_only_model": "checkpoints must be resumable",
    "trackio_bucket_id": _TRACKING,
    "trackio_space_id": _TRACKING,
    "trackio_static_space_id": _TRACKING,
    "truncation_mode": "long rows lose their end and are counted",
    "trust_remote_code": "the model catalog says whose code may run",
    "use_liger_kernel": "deprecated in TRL; write `model_init_kwargs: {use_kernels: true}`",
}
# The same for the trainers of `method: distill`, on top of those above.
OURS_OF_DISTILL = {
    "callbacks": "GRA's own are used",
    "log_completions": "look at the finished student with eval/run.py",
    "teacher_model_init_kwargs": _TEACHER,
    "teacher_model_name_or_path": _TEACHER,
    "teacher_model_revision": _TEACHER,
    "teacher_tokenizer_name_or_path": _TEACHER,
    "use_uld_loss": "set `teacher.vocabulary: other`, which is what this loss is for",
}

# What GRA prefers over TRL's own defaults; a recipe overrides it.
DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 0.25,  # of all steps
    "save_total_limit": 2,  # the newest and, should it be half-written, the one before
    "seed": 42,
}


@dataclass(frozen=True)
class ValueRange:
    """The numbers an option may have: from `low` to `high`, `low` itself only when it is `inclusive`."""

    low: float
    high: float = float("inf")
    inclusive: bool = True
    besides: float | None = None  # one number outside the range that has a meaning of its own

    def refuses(self, value: float) -> bool:
        """Whether the value is outside."""
        if value == self.besides:
            return False
        return value > self.high or value < self.low or (value == self.low and not self.inclusive)

    def __str__(self) -> str:
        """Return the range for a message: "at least 1", "more than 0", "from 0 to 1"."""
        lowest = f"at least {self.low:g}" if self.inclusive else f"more than {self.low:g}"
        text = lowest if self.high == float("inf") else f"{lowest} and at most {self.high:g}"
        return text if self.besides is None else f"{text}, or {self.besides:g}"


_COUNT, _POSITIVE, _NOT_NEGATIVE, _SHARE = (
    ValueRange(1),
    ValueRange(0, inclusive=False),
    ValueRange(0),
    ValueRange(0, 1),
)
_SEED = ValueRange(0, 2**32 - 1)
_BETA = ValueRange(0, 0.999999)
RANGES = {
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": _POSITIVE,
    "beta": _NOT_NEGATIVE,
    "center_rewards_coefficient": _NOT_NEGATIVE,
    "data_seed": _SEED,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _COUNT,
    "dataset_num_proc": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "eval_delay": _NOT_NEGATIVE,
    "eval_steps": _POSITIVE,
    "gradient_accumulation_steps": _COUNT,
    "label_smoothing": ValueRange(0, 0.5),
    "label_smoothing_factor": ValueRange(0, 0.999999),
    "learning_rate": ValueRange(0, 1, inclusive=False),
    "lmbda": _SHARE,
    "logging_steps": _POSITIVE,
    "max_completion_length": _COUNT,
    "max_grad_norm": _NOT_NEGATIVE,
    "max_length": ValueRange(2),
    "max_steps": ValueRange(1, besides=-1),
    "min_p": _SHARE,
    "neftune_noise_alpha": _POSITIVE,
    "num_train_epochs": _POSITIVE,
    "pad_to_multiple_of": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "per_device_train_batch_size": _COUNT,
    "repetition_penalty": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _COUNT,
    "seed": _SEED,
    "temperature": _POSITIVE,
    "top_k": _NOT_NEGATIVE,
    "top_p": ValueRange(0, 1, inclusive=False),
    "torch_empty_cache_steps": _COUNT,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": ValueRange(0, 1),
}
# Steps that are a share of all steps when they are below 1 and a whole number otherwise.
SHARE_OR_COUNT = frozenset({"eval_steps", "logging_steps", "save_steps", "warmup_steps"})

# Values that TRL accepts and that do not do what a reader expects.
REFUSED: dict[tuple[str, Any], str] = {
    ("loss_type", "chunked_nll"): "is the old name of `nll`, which computes the loss in chunks too",
    ("packing_strategy", "wrapped"): "cuts rows and lets one see another's words; use bfd or bfd_split",
    ("padding_free", True): "ignores `max_length`; use `packing: true`, which is free of padding too",
    ("save_strategy", "best"): "keeps nothing to go on from; use steps or epoch",
}

# Choices that TRL does not declare: others end in an error at the first step.
CHOICES = {
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "loss_type": (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
        *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
}

# Schedules that end in an error, after the weights are loaded, without one of these `lr_scheduler_kwargs`.
SCHEDULE_NEEDS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}

# Optimizers in packages of their own: a part of their names, the module, what to install.
OPTIMISER_PACKAGES = (
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("torch_4bit", "torchao", "torchao"),
    ("torch_8bit", "torchao", "torchao"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("8bit", "bitsandbytes", "bitsandbytes"),
    ("bnb", "bitsandbytes", "bitsandbytes"),
    ("paged", "bitsandbytes", "bitsandbytes"),
    ("lion", "bitsandbytes", "bitsandbytes"),
    ("ademamix", "bitsandbytes", "bitsandbytes"),
)
# Keys that the `model` section decides.
MODEL_KEYS = (
    "dtype", "torch_dtype", "attn_implementation", "experts_implementation", "revision", "quantization_config",
    # What could run code or read pickles that come with a model.
    "trust_remote_code", "code_revision", "allow_all_kernels", "use_safetensors", "weights_only", "config",
)  # fmt: skip
