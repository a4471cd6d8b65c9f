"""Everything about a training run that is known before anything is spent; `--dry-run` prints it.

A plan resolves the student, reads and tokenises the rows, and names the inputs that decide the result.
Two runs with the same inputs make the same student, so inputs are what resuming compares.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.core.errors import RecipeError
from gra.core.manifest import digest, file_digest
from gra.core.recipe import Loaded, find_file
from gra.core.schema import TrainRecipe
from gra.training.arguments import check_arguments, on_cpu
from gra.training.rows import Row, Split, read_rows, split_rows
from gra.training.template import Encoded, encode, fingerprint, show_row, student_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gra.models.catalog import ResolvedModel

# Raise when the same inputs begin to train another student.
METHOD = 1
# Options that change what is seen, kept or how fast, never the weights.
_WITHOUT_EFFECT = frozenset(
    {"dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"}
    | {"dataset_num_proc", "ddp_timeout", "skip_memory_metrics", "torch_empty_cache_steps"}
    | {"log_level", "log_level_replica", "log_on_each_node"}
    | {"logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy"}
    | {"save_on_each_node", "save_steps", "save_strategy", "save_total_limit"}
)


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start."""

    loaded: Loaded[TrainRecipe]
    options: dict[str, Any]
    model: ResolvedModel
    tokenizer: PreTrainedTokenizerBase
    split: Split
    train: Encoded
    heldout: Encoded
    files: list[dict[str, Any]]
    template: str
    inputs: dict[str, Any]

    @property
    def recipe(self) -> TrainRecipe:
        """The recipe's values."""
        return self.loaded.recipe

    @property
    def fingerprint(self) -> str:
        """Changes when anything that decides the result does."""
        return digest(self.inputs)

    def rows(self) -> dict[str, Any]:
        """Counts for the report: rows read, in training and held out, tokens, truncated, dropped."""
        return {"read": self.split.read, "train": self.train.counts(), "heldout": self.heldout.counts()}

    def describe(self) -> dict[str, Any]:
        """What `--dry-run` prints."""
        return {
            "name": self.recipe.name,
            "model": self.model.identity,
            "rows": self.rows(),
            "steps": self.steps(),
            "template": self.template,
            "fingerprint": self.fingerprint,
            "row": show_row(self.tokenizer, self.train),
            "memory": self.memory(),
        }

    def steps(self) -> int:
        """Optimiser steps of the run, from the rows left after dropping; packing makes it fewer."""
        options = self.options
        if options.get("max_steps", -1) > 0:
            return int(options["max_steps"])
        batch: int = options.get("per_device_train_batch_size", 8) * options.get("gradient_accumulation_steps", 1)
        batch *= int(os.environ.get("WORLD_SIZE", 1))
        epochs: float = options.get("num_train_epochs", 3.0)
        return math.ceil(-(-len(self.train) // batch) * epochs)

    def memory(self) -> dict[str, Any]:
        """Parameters, and GB for weights, gradients and AdamW on one device; activations come on top."""
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        code = self.model.remote_code
        config = AutoConfig.from_pretrained(self.model.path, trust_remote_code=code)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=code)
        model.tie_weights()
        total = sum(weight.numel() for weight in model.parameters())
        trained = total
        if self.recipe.lora:
            from peft import get_peft_model

            trained = get_peft_model(model, lora_config(self.recipe)).get_nb_trainable_parameters()[0]
        size = torch.finfo(getattr(torch, self.recipe.model.dtype)).bits // 8
        state = 12 if self.recipe.lora else size + 8  # gradient and two moments; adapters are float32
        gigabytes = (total * size + trained * state + (trained * 4 if self.recipe.lora else 0)) / 1e9
        return {"parameters": total, "trained": trained, "gb_without_activations": round(gigabytes, 2)}


def make_plan(loaded: Loaded[TrainRecipe], say: Callable[[str], None] = lambda text: None) -> Plan:
    """Check the recipe, resolve the student, read, split and tokenise the rows; `say` hears of downloads.

    Raises:
        RecipeError, DataError: with the line of the recipe, or the file and row, that is wrong.
        ModelUnavailable: when the student's weights cannot be had.
    """
    options = check_arguments(loaded)
    recipe = loaded.recipe
    if not recipe.data.train:
        raise RecipeError("`data.train` is empty; name a file: data.train=[{path: rows.parquet}]", loaded.path)
    paths = [find_file(source.path, loaded.path) for source in recipe.data.train]
    sources = [(read_rows(path), source.weight) for path, source in zip(paths, recipe.data.train, strict=True)]
    split = split_rows(sources, recipe.data.holdout.fraction, recipe.data.holdout.seed)

    from gra.models.catalog import resolve

    name = f"{recipe.model.name}@{recipe.model.revision}" if recipe.model.revision else recipe.model.name
    model = resolve(name, accept_licences=recipe.accept_licences, progress=say)
    tokenizer = student_tokenizer(model, loaded)
    limit = options.get("max_length", 1024)
    train = encode(tokenizer, split.train, limit)
    if not len(train):
        raise RecipeError(f"no row has an answer left within `train.max_length: {limit}`; raise it", loaded.path)
    files = [
        {"path": str(path), "weight": source.weight, "sha256": file_digest(path)}
        for path, source in zip(paths, recipe.data.train, strict=True)
    ]
    template = fingerprint(tokenizer)
    inputs = _inputs(recipe, options, model.identity, template, files)
    heldout = encode(tokenizer, split.heldout, limit)
    return Plan(loaded, options, model, tokenizer, split, train, heldout, files, template, inputs)


def probe_rows(plan: Plan) -> list[Row]:
    """The held-out rows that the stop probe asks."""
    return plan.split.heldout[: plan.recipe.probe.prompts]


def load_student(plan: Plan, path: Path) -> Any:
    """The student's weights from `path` (its own folder, or a whole checkpoint of this run)."""
    import torch
    from transformers import AutoModelForCausalLM

    recipe = plan.recipe
    adapter = path if (path / "adapter_config.json").is_file() else None
    model = AutoModelForCausalLM.from_pretrained(
        plan.model.path if adapter else path,
        dtype=getattr(torch, recipe.model.dtype),
        attn_implementation=recipe.model.attn_implementation,
        trust_remote_code=plan.model.remote_code,
        **(plan.options.get("model_init_kwargs") or {}),
    )
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    return model


def lora_config(recipe: TrainRecipe) -> Any:
    """The PEFT configuration, or None for full fine-tuning."""
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def use_all_cores(train: Mapping[str, Any]) -> None:
    """Share this machine's cores among its training processes, when they train on them."""
    import torch

    # Launchers set OMP_NUM_THREADS=1 by themselves, which would leave all cores but one idle.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ
    threads = os.environ.get("OMP_NUM_THREADS")
    if on_cpu(dict(train)) and (threads is None or (launched and threads == "1")):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _inputs(
    recipe: TrainRecipe, options: Mapping[str, Any], identity: str, template: str, files: list[dict[str, Any]]
) -> dict[str, Any]:
    """What decides the result, flat, so that a difference can be named."""
    inputs: dict[str, Any] = {"method": METHOD, "model.identity": identity, "model.template": template}
    inputs |= {f"model.{key}": getattr(recipe.model, key) for key in ("dtype", "attn_implementation")}
    inputs |= {f"data.train.{at}": f"{file['sha256']} x {file['weight']:g}" for at, file in enumerate(files)}
    inputs |= {f"data.holdout.{key}": value for key, value in recipe.data.holdout.model_dump().items()}
    inputs |= {f"lora.{key}": value for key, value in (recipe.lora.model_dump() if recipe.lora else {}).items()}
    inputs |= {f"train.{key}": value for key, value in options.items() if key not in _WITHOUT_EFFECT}
    return inputs
