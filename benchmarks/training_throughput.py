"""Measure tokens a second in training: train.py beside TRL's own SFT script, with one model, rows and options.

    python benchmarks/training_throughput.py RECIPE [--steps 8] [--rows 70] [--repeat 2] [--json FILE]

RECIPE is a training recipe, for example recipes/smollm2-135m/sft/config_lora.yaml. The rows are the quickstart's seeds.
Both sides run in turn, each in its own process, with the recipe's options on this machine. Tokens exclude padding, as
train.py counts them; TRL's script can only count padding too. The time is the trainer's own, with checkpoints and
without loading. The losses of their steps are compared, to show that both did the same work. A third run packs the rows
(`train.packing: true`).
"""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.training.options.trl_config import build_arguments, check_arguments, load_train_recipe

ROOT = Path(__file__).parent.parent
# What a run needs besides the recipe's `train` section to be the one that train.py makes of it.
_BESIDES = ("use_cpu", "bf16", "dataloader_pin_memory", "disable_tqdm", "report_to")

_PACKED = ("train.packing=true", "train.train_sampling_strategy=random")  # packed rows are all equally long


@dataclass(frozen=True)
class Run:
    """What one training run took."""

    seconds: float
    tokens: int
    losses: list[float]

    @property
    def rate(self) -> float:
        """Tokens a second, padding excluded."""
        return self.tokens / self.seconds


def write_rows(file: Path, count: int) -> Path:
    seeds = map(json.loads, (ROOT / "recipes/seeds/quickstart.jsonl").read_text(encoding="utf-8").splitlines())
    rows = [
        {
            "prompt": [{"role": "user", "content": seed["instruction"]}],
            "completion": [{"role": "assistant", "content": seed["response"]}],
        }
        for seed in list(seeds)[:count]
    ]
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def said(command: list[str]) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def last_state(checkpoints: Path) -> dict[str, Any]:
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    return dict(json.loads((newest / "trainer_state.json").read_text(encoding="utf-8")))


def run_of(state: dict[str, Any], seconds: float) -> Run:
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    return Run(seconds, state["num_input_tokens_seen"], losses)


def ours(loaded: Loaded[TrainRecipe], overrides: list[str], folder: Path) -> Run:
    """Train with train.py."""
    text = said(["train.py", "--config", str(loaded.path), "--output", str(folder), "--json", *overrides])
    return run_of(last_state(folder / "checkpoints"), json.loads(text)["seconds"])


def trls(loaded: Loaded[TrainRecipe], rows: Path, folder: Path, tokens: int) -> Run:
    """Train with TRL's script on rows with `tokens` tokens in all."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(trl_config(loaded, rows, folder)), encoding="utf-8")
    text = said(["-m", "trl.scripts.sft", "--config", str(folder / "config.yaml")])
    logs = [ast.literal_eval(line) for line in text.splitlines() if line.startswith("{'")]
    seconds = next(float(entry["train_runtime"]) for entry in logs if "train_runtime" in entry)
    return replace(run_of(last_state(folder), seconds), tokens=tokens)


def trl_config(loaded: Loaded[TrainRecipe], rows: Path, folder: Path) -> dict[str, Any]:
    """The recipe as TRL's script takes it."""
    from gra.models.catalog import resolve
    from gra.training.plan import model_name

    recipe = loaded.recipe
    arguments = build_arguments(loaded, folder)
    options = {name: getattr(arguments, name) for name in (*check_arguments(loaded), *_BESIDES)}
    options = {name: value.value if isinstance(value, Enum) else value for name, value in options.items()}
    options |= {
        "output_dir": str(folder),
        "dataset_name": str(rows.parent),
        "completion_only_loss": True,
        "model_name_or_path": str(resolve(model_name(recipe.model), accept_licenses=recipe.accept_licenses).path),
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
    }
    if recipe.model.chat_template is not None:
        name = recipe.model.chat_template.removeprefix("builtin:")
        options["chat_template_path"] = str(ROOT / "gra/training/templates" / f"{name}.jinja")
    if recipe.lora is not None:
        options |= {"use_peft": True, "lora_r": recipe.lora.r, "lora_alpha": recipe.lora.alpha}
        options |= {"lora_dropout": recipe.lora.dropout, "lora_target_modules": recipe.lora.target_modules}
    return options


def farthest(left: Run, right: Run) -> float:
    """The largest relative difference between the losses of the same step."""
    return max(abs(a - b) / abs(b) for a, b in zip(left.losses, right.losses, strict=True))


def table(runs: dict[str, list[Run]], steps: int) -> str:
    base = statistics.median(run.rate for run in runs["TRL's script"])
    lines = ["| | tokens | s a step | tokens/s | over TRL's |", "|---|---|---|---|---|"]
    for name, each in runs.items():
        rate = statistics.median(run.rate for run in each)
        seconds = statistics.median(run.seconds for run in each) / steps
        lines.append(f"| {name} | {each[0].tokens} | {seconds:.2f} | {rate:.0f} | {rate / base:.2f} |")
    return "\n".join(lines)


def main(
    recipe: Path,
    steps: int = 8,
    rows: int = 70,
    repeat: int = 2,
    packed: Annotated[bool, typer.Option(help="a third run that packs the rows")] = True,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_rows(folder / "data" / "train.jsonl", rows)
        overrides = [f"data.train=[{{path: {file}}}]", f"train.max_steps={steps}", "train.save_steps=0.5"]
        overrides += ["data.holdout.fraction=0", "tracking.wandb=off"]
        loaded = load_train_recipe(recipe, overrides)
        sides: dict[str, Callable[[Path], Run]] = {
            "train.py": lambda place: ours(loaded, overrides, place),
            "TRL's script": lambda place: trls(loaded, file, place, runs["train.py"][0].tokens),
        }
        if packed:
            sides["train.py, packed"] = lambda place: ours(loaded, [*overrides, *_PACKED], place)
        for number in range(repeat):
            for at, (side, run) in enumerate(sides.items()):
                runs.setdefault(side, []).append(run(folder / f"{at}-{number}"))
                print(f"{side}: {runs[side][-1].rate:.0f} tokens/s", file=sys.stderr)
    apart = farthest(runs["train.py"][0], runs["TRL's script"][0])
    print(table(runs, steps))
    print(f"largest relative difference between the losses of a step: {apart:.1e}")
    if json_file is not None:
        content = {"recipe": str(recipe), "steps": steps, "losses_apart": apart}
        content |= {"runs": {side: [asdict(run) for run in each] for side, each in runs.items()}}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
