"""Measure what fusion gains on real models: held-out nats a character after equally many steps.

Run as: python benchmarks/fusion.py [--steps 10] [--seeds 3] [--rows 70] [--sft-weight 0.5] [--json FILE]

The student of recipes/systems/fusion learns from the quickstart seeds, of which some are held out. Three arms take
equal steps. The control is supervised training alone. The second is fusion. The third is fusion with exchanged
tokens: each target names other tokens with the same probabilities, and must be worse. Differences are paired by row
and hold the variance between training seeds. A teacher is asked once. `--data FILE` takes other rows.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from training_throughput import write_rows

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.stats.paired import paired_difference
from gra.stats.seeds import with_seed_variance

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/systems/fusion/config_lora.yaml"
TEACHERS = "smollm2-135m-instruct,qwen2.5-coder-0.5b-instruct"
CONTROL, FUSED, EXCHANGED = "sft", "fusion", "fusion, tokens exchanged"


def loaded_of(overrides: list[str]) -> Any:
    """Return the checked recipe with these changes."""
    from gra.training.options.trl_config import load_train_recipe

    return load_train_recipe(RECIPE, overrides)


def exchange_tokens(source: Path, target: Path, vocabulary: int) -> None:
    """Copy stored distributions with every token replaced by another one, the same everywhere."""
    from gra.training.fusion.store import read_distributions, write_distributions
    from gra.training.fusion.vocabulary import NONE

    target.mkdir()
    other = np.random.default_rng(0).permutation(vocabulary).astype(np.int32)
    for file in source.glob("*.npz"):
        with np.load(file) as found:
            key, rows = str(found["key"]), len(found["cross_entropy"])
        kept = read_distributions(file, key, rows)
        ids = np.where(kept.ids == NONE, NONE, other[kept.ids])
        write_distributions(target / file.name, key, dataclasses.replace(kept, ids=ids))


def answer_nats(plan: Any, encoded: Any, adapter: Path | None) -> list[tuple[float, int]]:
    """Return the nats and the tokens of each answer, its stop token included.

    Args:
        plan: of a training run; it names the student and its tokenizer.
        encoded: the plan's rows, such as those held out.
        adapter: of the trained student; None for the untrained one.
    """
    import torch

    from gra.training.data.tokenize import IGNORED
    from gra.training.plan import load_student

    model = load_student(plan)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    found = []
    for ids, labels in zip(encoded.columns["input_ids"], encoded.columns["labels"], strict=True):
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        wanted = torch.tensor(labels[1:])
        inside = wanted != IGNORED
        nats = -float(logprobs[inside].gather(1, wanted[inside][:, None]).sum())
        found.append((nats, int(inside.sum())))
    return found


def nats_a_character(plan: Any, adapter: Path | None) -> list[float]:
    """Return the nats a character of each held-out answer, its stop token included."""
    given = zip(plan.heldout.rows, answer_nats(plan, plan.heldout, adapter), strict=True)
    return [nats / len(row.completion[-1]["content"]) for row, (nats, _) in given]


def table(scores: dict[str, Any], seconds: dict[str, float], untrained: list[float]) -> list[dict[str, Any]]:
    """Print one line an arm, and return them."""
    control, lines = scores[CONTROL], []
    print("| arm | nats a character | less than the control (95 %) | s a run |")
    print("|---|---|---|---|")
    print(f"| no training | {np.mean(untrained):.4f} | | |")
    for name, arm in scores.items():
        line: dict[str, Any] = {"arm": name, "nats": float(arm.mean()), "seconds": seconds[name]}
        gain = ""
        if name != CONTROL:
            items = paired_difference(control.mean(axis=0), arm.mean(axis=0))
            estimate = with_seed_variance(items, control, arm)
            low, high = estimate.interval()
            line |= {"gain": estimate.value, "low": low, "high": high}
            gain = f"{estimate.value:+.4f} ({low:+.4f} to {high:+.4f})"
        print(f"| {name} | {line['nats']:.4f} | {gain} | {line['seconds']:.0f} |")
        lines.append(line)
    return lines


def main(
    steps: int = 10,
    seeds: int = 3,
    rows: int = 70,
    sft_weight: float = 0.5,
    combine: str = "min_ce",
    teachers: Annotated[str, typer.Option(help="catalog names, separated by commas")] = TEACHERS,
    held_out: Annotated[float, typer.Option(help="share of the rows")] = 0.4,
    data: Annotated[Path | None, typer.Option(help="rows in place of the quickstart's seeds")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Train the arms, score their held-out rows and print a table."""
    from gra.training.plan import make_plan
    from gra.training.run import train

    scores: dict[str, list[list[float]]] = {CONTROL: [], FUSED: [], EXCHANGED: []}
    seconds = dict.fromkeys(scores, 0.0)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = data.resolve() if data else write_rows(folder / "data" / "train.jsonl", rows)
        common = [f"data.train=[{{path: {file}}}]", f"data.holdout.fraction={held_out}", f"train.max_steps={steps}"]
        common += ["stop_rate.prompts=0", "tracking.wandb=off"]
        named = ", ".join(f"{{name: {each}}}" for each in teachers.split(","))
        fused = [f"fusion.teachers=[{named}]", f"fusion.sft_weight={sft_weight}", f"fusion.combine={combine}"]
        ways = {
            CONTROL: ["method=sft", "fusion=null"],
            FUSED: [*fused, f"fusion.store={folder / 'store'}"],
            EXCHANGED: [*fused, f"fusion.store={folder / 'exchanged'}"],
        }
        plan = make_plan(loaded_of([*common, *ways[CONTROL]]))
        untrained = nats_a_character(plan, None)
        for seed in range(seeds):
            for at, (arm, way) in enumerate(ways.items()):
                if arm == EXCHANGED and seed == 0:
                    exchange_tokens(
                        folder / "store", folder / "exchanged", 1 + max(plan.tokenizer.get_vocab().values())
                    )
                output, begun = folder / f"{at}-{seed}", time.monotonic()
                metrics = train(loaded_of([*common, *way, f"train.seed={seed}"]), output)
                seconds[arm] += (time.monotonic() - begun) / seeds
                scores[arm].append(nats_a_character(plan, output))
                report = metrics["fusion"] if arm == FUSED else report
                print(f"{arm}, seed {seed}: {np.mean(scores[arm][-1]):.4f}", file=sys.stderr)
    print(f"{len(plan.train)} rows in training, {len(plan.heldout)} held out, {steps} steps, {seeds} seeds")
    print(f"an answer token has a target in {report['covered']:.0%}")
    for teacher, facts in report["teachers"].items():
        print(f"{teacher}: explains {facts['best']} of {report['rows']} rows best, aligned {facts['aligned']:.0%}, "
              f"{facts['cross_entropy']:.3f} nats a token")  # fmt: skip
    lines = table({arm: np.array(each) for arm, each in scores.items()}, seconds, untrained)
    if json_file is not None:
        settings = {"steps": steps, "seeds": seeds, "sft_weight": sft_weight, "combine": combine}
        content = {**settings, "untrained": untrained, "arms": lines, "scores": scores, "fusion": report}
        write_json(json_file, {**content, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
