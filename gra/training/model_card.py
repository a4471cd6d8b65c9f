"""Write the model card: what a student was made from, and the command that makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gra.config.training import TrainRecipe
from gra.core.files import write_text
from gra.core.run_folder import environment
from gra.training.methods import METHODS


def write_card(output: Path, recipe: TrainRecipe, section: Mapping[str, Any], metrics: Mapping[str, Any]) -> Path:
    """Write `README.md` of a trained student.

    Args:
        output: The model folder.
        recipe: Of the run.
        section: The training section of the manifest.
        metrics: Of metrics.json.

    Returns:
        The file.
    """
    model, spec = section["model"], METHODS[recipe.method]
    head = {
        "base_model": model["name"],
        "library_name": "peft" if section["adapter"] else "transformers",
        "license": model["licence"],
        "pipeline_tag": "text-classification" if spec.scores else "text-generation",
        "tags": ["gra", spec.tag, "trl", *(["lora"] if recipe.adapts else [])],
    }
    path = output / "README.md"
    body = "\n\n".join([_intro(recipe, model), _data(section, metrics), _numbers(metrics), _again(section)])
    write_text(path, f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {recipe.name}\n\n{body}\n")
    return path


def _intro(recipe: TrainRecipe, model: Mapping[str, Any]) -> str:
    scores = METHODS[recipe.method].scores
    kind = "LoRA adapter" if recipe.adapts else "full fine-tune"
    if scores:
        kind = "reward model with a merged LoRA adapter" if recipe.adapts else "reward model"
    template = recipe.model.chat_template or "the model's own chat template"
    licence = f"{model['licence']} ({model['licence_url']})" if model["licence_url"] else model["licence"]
    method = METHODS[recipe.method].description
    use = (
        " It gives a conversation one number (the logit of its one label) and writes no text; higher is better. In a "
        "synthesis recipe it is a reviewer with `ask: reward`."
        if scores
        else ""
    )
    teacher = f" The teacher is `{recipe.teacher.name}`." if recipe.teacher else ""
    if recipe.fusion is not None:
        teacher = f" The teachers are {', '.join(f'`{each.name}`' for each in recipe.fusion.teachers)}."
    return (
        f"A {kind} of `{model['name']}` ({model['identity']}), trained with GRA {method}.{teacher}{use} "
        f"Prompts are rendered with `{template}`; use the tokenizer in this "
        f"folder, it carries the template and the stop token. The base model's license applies to this one: {licence}."
    )


def _data(section: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lines = ["## Data", "", "| file | weight | SHA-256 | made by |", "|---|---|---|---|"]
    lines += [
        f"| `{file['path']}` | {file['weight']:g} | `{file['sha256']}` | {_made_by(file['origin'])} |"
        for file in section["data"]
    ]
    rows = metrics["rows"]
    lines += [
        "",
        f"{rows['read']} rows read; {rows['train']['rows']} in training ({rows['train']['tokens']} tokens, "
        f"{rows['train']['loss_tokens']} in the loss), {rows['heldout']['rows']} held out, "
        f"{rows['train']['truncated']} cut at the length limit, {rows['train']['dropped']} dropped because they did "
        f"not fit into it, {rows['train']['set_aside']} set aside because the chat template cannot write them.",
    ]
    return "\n".join(lines)


def _made_by(origin: Mapping[str, Any] | None) -> str:
    if origin is None:
        return "not known: no manifest lists it"
    return f"run `{origin['run']}` (`{str(origin.get('fingerprint', ''))[:12]}`), ledger `{origin['ledger']}`"


def _numbers(metrics: Mapping[str, Any]) -> str:
    lines = ["## Training", "", "| | |", "|---|---|"]
    shown = {
        "steps": metrics["steps"],
        "epochs": metrics["epochs"],
        "seed": metrics["seed"],
        "loss, first to last": f"{metrics['loss_first']} to {metrics['loss']}",
        "seconds": metrics["seconds"],
        "tokens per second (no padding)": metrics["tokens_per_second"],
        "processes": metrics["processes"],
    }
    if metrics["gpu_hours"] is not None:
        shown["GPU-hours"] = metrics["gpu_hours"]
    if "eval_loss" in metrics:
        shown["loss on held-out rows"] = metrics["eval_loss"]
    if "preferred" in metrics:
        found = metrics["preferred"]
        shown["held-out pairs with the better answer scored higher"] = f"{found['right']} of {found['pairs']}"
    elif "train_accuracy" in metrics:
        shown["share of training pairs with the better answer scored higher"] = metrics["train_accuracy"]
    for name, teacher in metrics.get("fusion", {}).get("teachers", {}).items():
        shown[f"rows that `{name}` explains best"] = f"{teacher['best']} of {metrics['fusion']['rows']}"
    if "stop" in metrics:
        stop = metrics["stop"]
        shown["held-out answers that end by themselves"] = f"{stop['stopped']} of {stop['prompts']}"
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in shown.items())])


def _again(section: Mapping[str, Any]) -> str:
    made = environment()
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    return (
        "## Make it again\n\n"
        f"    {section['relaunch']}\n\n"
        f"`recipe.resolved.yaml` in this folder holds every value and pins the weights and the data by their digests: "
        f"with others it refuses to run. Seeds: training {section['seeds']['training']}, hold-out "
        f"{section['seeds']['holdout']}. Made on {_machine(section)}. "
        f"Run fingerprint `{section['fingerprint'][:12]}`, template fingerprint `{section['template']}`, "
        f"GRA {made['gra']}{' at ' + made['commit'] if made['commit'] else ''}, Python {made['python']}, {versions}."
    )


def _machine(section: Mapping[str, Any]) -> str:
    launch, gpus = section["launch"], section["hardware"]["gpus"]
    device = f"{gpus[0]['name']} ({gpus[0]['gb']:g} GB)" if gpus else "the CPU"
    machines = f" on {launch['machines']} machines" if launch["machines"] > 1 else ""
    return f"{launch['processes']} x {device}{machines}, {launch['strategy']}"
