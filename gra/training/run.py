"""Fine-tune a student by any method, from a recipe to a folder with the model and its manifest.

Running the same command again is safe. A finished run is not repeated, and an interrupted run resumes from its last
complete checkpoint. A folder that holds another run is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.core.errors import RecipeError, saving
from gra.core.files import refuse_shared, write_json, write_text
from gra.core.progress import View
from gra.core.run_folder import MANIFEST, RunFolder
from gra.core.stored.resolved_recipe import RESOLVED
from gra.models.weights import widened
from gra.training.adapters import adapter_folder
from gra.training.checkpoints import Checkpoint, newest_whole, refuse_difference, remove_broken
from gra.training.launch import Launch, command_after, launch_from_environment
from gra.training.methods import METHODS
from gra.training.model_card import write_card
from gra.training.options.trl_config import build_arguments, check_arguments, on_cpu
from gra.training.plan import TrainingPlan, load_student, make_plan, stop_rate_rows, use_all_cores
from gra.training.provenance import gpu_hours, hardware, origin_of, pinned
from gra.training.quantization import require_quantization
from gra.training.stop_rate import measure_stop_rate, set_stop_tokens

SECTION = "training"
METRICS = "metrics.json"
NOT_THE_MODEL = {MANIFEST, ".lock", "log.jsonl"}


def train(
    loaded: Loaded[TrainRecipe],
    output: Path,
    *,
    dry_run: bool = False,
    launch: Launch | None = None,
    fresh: bool = False,
    view: View | None = None,
    group: str | None = None,
    callbacks: Sequence[Any] = (),
    more_inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the recipe's student into `output`.

    Args:
        loaded: The checked recipe.
        output: The model folder; made when it is not there.
        dry_run: Check the recipe, the rows and the template, and return the plan.
        launch: Of the planned run; that of this process when not given.
        fresh: Delete the run that is in `output`.
        view: Shows progress; on standard error and in `output`/log.jsonl when not given.
        group: Of this run in the tracker.
        callbacks: Called besides TRL's and GRA's own.
        more_inputs: What decides the result beside the recipe: what these callbacks change.

    Returns:
        The content of metrics.json with `status` "trained" or "already trained", or the plan of a dry run.

    Raises:
        RecipeError, DataError: The recipe or a row is wrong.
        ModelUnavailable: The student's weights cannot be had.
        Mismatch: `output` holds another run and `fresh` is not set.
    """
    be_quiet()
    options = check_arguments(loaded)
    cpu = on_cpu(options)
    here = launch_from_environment(cpu=cpu)
    if dry_run:
        from gra.training.dry_run import preview

        asked = bool(options.get("use_cpu")) or (launch or here).strategy == "cpu"
        return preview(loaded, launch or here, cpu=asked if launch else cpu, say=View(None).note)
    require_quantization(loaded, here, cpu=cpu)
    use_all_cores(options)
    arguments = build_arguments(loaded, output / "checkpoints")
    main = arguments.process_index == 0
    view = view or View(output / "log.jsonl" if main else None, quiet=not main)
    folder = RunFolder(output)
    with folder.create().lock() if main else nullcontext(), saving(output):
        plan = make_plan(loaded, view.note)
        plan.inputs.update(more_inputs or {})
        checkpoint = _find_start(plan, folder, arguments, fresh, view)
        done = folder.completed(SECTION, plan.fingerprint)
        if done is not None:
            view.note(f"{output} already holds this run; nothing to train (--fresh trains it again)")
            return {**json.loads((output / METRICS).read_text(encoding="utf-8")), "status": "already trained"}
        if main:
            _refuse_shared_files(output)
        metrics = _run(plan, folder, arguments, checkpoint, view, group, callbacks)
    return {**metrics, "status": "trained"}


def _refuse_shared_files(output: Path) -> None:
    """Refuse files with a second name where libraries will write the model and its checkpoints.

    Raises:
        DataError: naming the first one.
    """
    for file in (*output.glob("*"), *output.glob("checkpoints/**/*")):
        if file.suffix != ".parquet" and not file.is_dir():
            refuse_shared(file)


def is_trained(loaded: Loaded[TrainRecipe], output: Path) -> bool:
    """Return whether `output` already holds this recipe's student, without reading weights.

    Raises:
        GraError: As `train` does, when `output` holds a student and the recipe, its data or its model are wrong.
    """
    folder = RunFolder(output)
    if SECTION not in folder.manifest():
        return False
    be_quiet()
    return folder.completed(SECTION, make_plan(loaded).fingerprint) is not None


def _find_start(plan: TrainingPlan, folder: RunFolder, arguments: Any, fresh: bool, view: View) -> Checkpoint | None:
    """Return the checkpoint to resume from, the same on every process."""
    from accelerate import PartialState

    checkpoints, everyone = Path(arguments.output_dir), PartialState()
    if everyone.is_main_process:
        if fresh:
            folder.drop(SECTION)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for name in remove_broken(checkpoints):
            view.note(f"{name} was cut off while it was written; it is not used")
    everyone.wait_for_everyone()
    before = folder.manifest().get(SECTION)
    if before is not None:
        refuse_difference(folder.path, before["inputs"], plan.inputs)
    return newest_whole(checkpoints, {**plan.inputs, "processes": arguments.world_size})


def _run(
    plan: TrainingPlan,
    folder: RunFolder,
    arguments: Any,
    checkpoint: Checkpoint | None,
    view: View,
    group: str | None,
    callbacks: Sequence[Any],
) -> dict[str, Any]:
    from gra.training.trainers.sft import ProgressCallback, SealCallback

    counts = plan.train.counts()
    view.note(
        f"{counts['rows']} rows, {counts['tokens']} tokens, {counts['loss_tokens']} in the loss; "
        f"{counts['truncated']} truncated, {counts['dropped']} dropped, "
        f"{counts['set_aside']} set aside, {len(plan.heldout)} held out"
    )
    for warning in plan.warnings:
        view.note(f"! {warning}")
    view.note(f"a row, with what the loss sees marked:\n{plan.show()}")
    if not plan.recipe.adapts and plan.recipe.model.dtype == "bfloat16" and arguments.deepspeed_plugin is None:
        view.note("! every weight is trained in bfloat16 without a float32 copy: small updates are lost. "
                  "Set `model.dtype: float32`, or launch with recipes/accelerate/zero2.yaml")  # fmt: skip
    before = checkpoint.seconds if checkpoint else 0.0
    seal = SealCallback({**plan.inputs, "processes": arguments.world_size}, before)
    _ask_teachers(plan, folder, arguments, view)
    with _tracking(plan, folder, group, arguments.process_index == 0) as tracker:
        trainer = _trainer(plan, arguments, [seal, ProgressCallback(view, tracker), *callbacks])
        if checkpoint:
            view.note(f"going on from step {checkpoint.state['global_step']}")
        with view.bars():
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        metrics = _save(plan, folder, trainer, seal.seconds)
        tracker.summary({key: value for key, value in metrics.items() if isinstance(value, (int, float))})
    return metrics


def _ask_teachers(plan: TrainingPlan, folder: RunFolder, arguments: Any, view: View) -> None:
    """Let the teachers of `method: fusion` compute their distributions, before the student takes memory."""
    if plan.fusion is None:
        return
    from accelerate import PartialState

    from gra.training.fusion.teachers import compute_missing, store_folder

    assert plan.recipe.fusion is not None
    if arguments.process_index == 0:
        with view.bars():
            compute_missing(
                plan.fusion, store_folder(plan.recipe.fusion.store, folder.path), plan.loaded.path,
                device=arguments.device, attention=plan.recipe.model.attn_implementation, say=view.note,
                progress=view.progress,
            )  # fmt: skip
    PartialState().wait_for_everyone()


def _trainer(plan: TrainingPlan, arguments: Any, callbacks: list[Any]) -> Any:
    """Return the method's trainer, with the student's weights loaded.

    Raises:
        RecipeError: When TRL refuses the combination of model, data and options.
    """
    model, section = load_student(plan), plan.recipe.model
    # Weights that are trained keep the type that they are saved in.
    if plan.recipe.adapts and section.quantization is None:
        model = widened(model, section.dtype, on_gpu=not on_cpu(plan.options))
    try:
        return METHODS[plan.recipe.method].make_trainer(plan, model, arguments, callbacks)
    except (ValueError, NotImplementedError) as error:
        raise RecipeError(f"TRL refuses to train this: {error}", plan.loaded.path) from error


def _save(plan: TrainingPlan, folder: RunFolder, trainer: Any, seconds: float) -> dict[str, Any]:
    """Write the model, its metrics, recipe and card, and the manifest last."""
    scores = METHODS[plan.recipe.method].scores
    if not scores:
        set_stop_tokens(trainer.model, plan.tokenizer)
    trainer.save_model(str(folder.path))
    metrics = _metrics(plan, trainer, seconds)
    if trainer.args.process_index == 0:
        if scores:
            from gra.training.trainers.reward import merge_adapter

            merge_adapter(plan, folder.path)
        else:
            trainer.model.generation_config.save_pretrained(folder.path)
        if plan.fusion is not None:
            from gra.training.fusion.report import write_teachers

            write_teachers(folder.path, plan.fusion, trainer.stored)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; the recipe says the same
        section = _section(plan, folder.path, metrics)
        write_json(folder / METRICS, metrics)
        write_text(folder / RESOLVED, pinned(plan.loaded, section).show() + "\n")
        write_card(folder.path, plan.recipe, section, metrics)
        files = [path for path in folder.path.iterdir() if path.is_file() and path.name not in NOT_THE_MODEL]
        folder.record(SECTION, section, files)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _section(plan: TrainingPlan, output: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's section: all facts that identify the student and make it again."""
    launch = launch_from_environment(cpu=on_cpu(plan.options))
    start = adapter_folder(plan.loaded)
    section: dict[str, Any] = {
        "fingerprint": plan.fingerprint,
        "method": plan.recipe.method,
        "inputs": plan.inputs,
        "model": weights_facts(plan.recipe.model.name, plan.model),
        "teacher": None if plan.teacher is None else weights_facts(plan.teacher.name, plan.teacher),
        "data": [{**file, "origin": origin_of(Path(file["path"]))} for file in plan.files],
        "template": plan.template,
        "adapter": plan.recipe.adapts and not METHODS[plan.recipe.method].scores,
        "adapter_from": None if start is None else str(start.resolve()),
        "seeds": {"training": plan.options["seed"], "holdout": plan.recipe.data.holdout.seed},
        "launch": launch.describe(),
        "hardware": hardware(),
        "relaunch": command_after(launch, output / RESOLVED, output.with_name(f"{output.name}-again")),
        "metrics": {key: value for key, value in metrics.items() if isinstance(value, (int, float))},
    }
    if plan.fusion is not None:
        found = metrics["fusion"]["teachers"]
        teachers = [{**weights_facts(each.name, each.model), **found[each.name]} for each in plan.fusion.teachers]
        section["fusion"] = {**metrics["fusion"], "teachers": teachers}
    return section


def weights_facts(name: str, model: Any) -> dict[str, Any]:
    """Return what a manifest says of a model's weights."""
    return {
        "name": name,
        "identity": model.identity,
        "path": str(model.path),
        "licence": model.licence,
        "licence_url": model.licence_url,
    }


def _metrics(plan: TrainingPlan, trainer: Any, seconds: float) -> dict[str, Any]:
    state = trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    if not losses:  # `logging_steps` is more than there were steps
        losses = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry]
    last = losses[-max(1, len(losses) // 5) :]
    # A trainer that writes its own rows counts them in its log.
    counted = [int(entry["num_tokens"]) for entry in state.log_history if "num_tokens" in entry]
    tokens = state.num_input_tokens_seen or max(counted, default=0)
    processes, gpu = trainer.args.world_size, not on_cpu(plan.options)
    metrics: dict[str, Any] = {
        "name": plan.recipe.name,
        "steps": state.global_step,
        "epochs": round(state.epoch, 3),
        "seed": trainer.args.seed,
        "loss_first": round(losses[0], 4),
        "loss": round(sum(last) / len(last), 4),  # mean of the last fifth of the logged steps
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "processes": processes,
        "gpu_hours": gpu_hours(processes, seconds, gpu),
        "rows": plan.rows(),
        "template": plan.template,
    }
    if plan.fusion is not None:
        metrics["fusion"] = trainer.summary
    if len(plan.heldout):
        metrics["eval_loss"] = round(trainer.evaluate()["eval_loss"], 4)
    if METHODS[plan.recipe.method].scores:
        from gra.training.trainers.reward import accuracy_of

        return metrics | accuracy_of(trainer)
    rows = stop_rate_rows(plan)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if rows and not sharded and trainer.args.process_index == 0:
        metrics["stop"] = measure_stop_rate(trainer.model, plan.tokenizer, rows, plan.recipe.stop_rate.max_new_tokens)
    return metrics


@contextmanager
def _tracking(plan: TrainingPlan, folder: RunFolder, group: str | None, main: bool) -> Iterator[Any]:
    from gra.tracking import NullTracker, start_tracking

    recipe = plan.recipe
    config = {**recipe.model_dump(mode="json"), "fingerprint": plan.fingerprint}
    tracker = (
        start_tracking(
            recipe.tracking, stage="training", name=recipe.name, group=group, config=config, folder=folder.path
        )
        if main
        else NullTracker()
    )
    try:
        yield tracker
    finally:
        tracker.finish()


def be_quiet() -> None:
    """Switch off bars, notices and telemetry of the libraries; call it before TRL is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import torch

    # TRL looks for vLLM whenever it is imported; training does not use it.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"trl\.generation")
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed guesses, and prints a warning
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
