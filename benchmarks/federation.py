"""Measure what a federation gains on a real model: held-out nats a token, over the rows of all clients.

Run as: python benchmarks/federation.py --out FOLDER [--rounds 5] [--steps 5] [--batch 4] [--seed 0] [--data FILE]

Three clients own the quickstart seeds of other domains; a share of each is held out. Arms: each client alone, all rows
together with the same total of steps, and a federation by each way to aggregate. Everything is in FOLDER, so that a run
that was cut off goes on. Differences are paired by row. `--data FILE` takes JSONL rows with `prompt`, `completion` and
`domain` instead, with one client a domain.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gra.core.files import make_folder, write_json
from gra.core.progress import View
from gra.core.rng import rng
from gra.core.run_folder import environment
from gra.stats.paired import paired_difference

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/systems/federation.yaml"
# Domains of the quickstart's seeds by client.
OWNERS = {
    "coding": "exact", "math": "exact", "reasoning": "exact", "qa": "facts", "language": "facts",
    "role-play": "creative", "creation": "creative",
}  # fmt: skip
WAYS = ("fedavg", "freeze_a", "stack")
ALONE, CENTRAL, UNTRAINED = "alone: ", "all rows together", "no training"


def rows_by_client(data: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each client."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    file = data or ROOT / "recipes/seeds/quickstart.jsonl"
    for item in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if data is not None:
            found[item["domain"]].append({key: item[key] for key in ("prompt", "completion")})
            continue
        texts = {"prompt": ("user", item["instruction"]), "completion": ("assistant", item["response"])}
        row = {key: [{"role": role, "content": text}] for key, (role, text) in texts.items()}
        found[OWNERS[item["domain"]]].append(row)
    return dict(found)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def split(folder: Path, data: Path | None, held_out: float) -> tuple[dict[str, Path], Path]:
    """Write the training rows of each client, and one file with the held-out rows of all."""
    files, held = {}, []
    for name, rows in rows_by_client(data).items():
        order = rng(0, "federation benchmark", name).sample(rows, len(rows))
        count = max(1, round(held_out * len(rows)))
        held += order[:count]
        files[name] = write_jsonl(folder / f"{name}.jsonl", order[count:])
    return files, write_jsonl(folder / "heldout.jsonl", held)


def nats_a_token(plan: Any, adapter: Path | None) -> list[float]:
    """Return the nats a token of each row's answer, its stop token included."""
    import torch

    from gra.training.data.tokenize import IGNORED
    from gra.training.plan import load_student

    model = load_student(plan)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    found = []
    for ids, labels in zip(plan.train.columns["input_ids"], plan.train.columns["labels"], strict=True):
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        wanted = torch.tensor(labels[1:])
        inside = wanted != IGNORED
        found.append(-float(logprobs[inside].gather(1, wanted[inside][:, None]).mean()))
    return found


def table(scores: dict[str, list[float]], seconds: dict[str, float]) -> dict[str, Any]:
    """Print a line an arm with the gain over the mean of the clients alone and over the best; return the lines."""
    alone = {name: np.array(each) for name, each in scores.items() if name.startswith(ALONE)}
    mean = np.mean(list(alone.values()), axis=0)
    best = min(alone, key=lambda name: float(alone[name].mean()))
    print("| arm | nats a token | below the clients' mean (95 %) | below the best client (95 %) | s |")
    print("|---|---|---|---|---|")
    lines: dict[str, Any] = {"best": best, "mean of clients": float(mean.mean()), "arms": {}}
    for name, each in scores.items():
        line: dict[str, Any] = {"nats": float(np.mean(each)), "seconds": seconds.get(name, 0.0)}
        shown = []
        for key, other in (("mean", mean), ("best", alone[best])):
            estimate = paired_difference(other, np.array(each))
            low, high = estimate.interval()
            line[key] = [estimate.value, low, high]
            shown.append(f"{estimate.value:+.4f} ({low:+.4f} to {high:+.4f})")
        lines["arms"][name] = line
        print(f"| {name} | {line['nats']:.4f} | {shown[0]} | {shown[1]} | {line['seconds']:.0f} |")
    print(f"the clients' mean is {mean.mean():.4f}; the best client is `{best.removeprefix(ALONE)}`, chosen on the "
          "held-out rows themselves")  # fmt: skip
    return lines


def main(
    out: Annotated[Path, typer.Option(help="a folder for rows, adapters and figures")],
    rounds: int = 5,
    steps: Annotated[int, typer.Option(help="of a client in a round")] = 5,
    batch: int = 4,
    max_length: int = 192,
    held_out: Annotated[float, typer.Option(help="share of each client's rows")] = 0.4,
    seed: int = 0,
    data: Annotated[Path | None, typer.Option(help="rows in place of the quickstart's seeds")] = None,
) -> None:
    """Train the arms, score their held-out rows and print a table."""
    from gra.config.training import FederationRecipe
    from gra.training.federation.client import training_of
    from gra.training.federation.run import federate
    from gra.training.options.trl_config import load_trained
    from gra.training.plan import make_plan
    from gra.training.run import train

    folder = make_folder(out)
    files, held = split(folder, data, held_out)
    clients = ", ".join(f"{{name: {name}, train: [{{path: {file.resolve()}}}]}}" for name, file in files.items())
    common = [
        f"clients=[{clients}]", f"rounds={rounds}", f"train.max_steps={steps}", f"train.seed={seed}",
        f"train.per_device_train_batch_size={batch}", f"train.max_length={max_length}",
    ]  # fmt: skip
    loaded = load_trained(RECIPE, FederationRecipe, common)
    options = loaded.recipe.train

    def sources(*paths: Path) -> list[Any]:
        return [loaded.recipe.clients[0].train[0].model_copy(update={"path": str(path.resolve())}) for path in paths]

    judge = make_plan(training_of(loaded, sources(held)))
    scores, seconds, sent = {UNTRAINED: nats_a_token(judge, None)}, {}, {}
    plain = {f"{ALONE}{name}": ([file], rounds * steps) for name, file in files.items()}
    plain[CENTRAL] = (list(files.values()), rounds * steps * len(files))
    for at, (name, (paths, total)) in enumerate(plain.items()):
        target, begun = folder / f"plain-{at}", time.monotonic()
        train(
            training_of(loaded, sources(*paths), train={**options, "max_steps": total}), target, view=View(quiet=True)
        )
        seconds[name], scores[name] = time.monotonic() - begun, nats_a_token(judge, target)
        print(f"{name}: {np.mean(scores[name]):.4f}", file=sys.stderr)
    for way in WAYS:
        target, begun = folder / way, time.monotonic()
        facts = federate(load_trained(RECIPE, FederationRecipe, [*common, f"aggregate={way}"]), target)
        name = f"federated: {way}"
        seconds[name], scores[name], sent = time.monotonic() - begun, nats_a_token(judge, target), facts["traffic"]
        print(f"{name}: {np.mean(scores[name]):.4f}", file=sys.stderr)
    counts = ", ".join(f"{name} {len(file.read_text().splitlines())}" for name, file in files.items())
    print(f"rows of the clients: {counts}; held out of all: {len(judge.train)}; {rounds} rounds of {steps} steps, "
          f"batch {batch}; all rows together: {plain[CENTRAL][1]} steps")  # fmt: skip
    lines = table(scores, seconds)
    print(f"{(sent['sent'] + sent['received']) / 1e6:.1f} MB in {sent['messages']} messages; whole models would be "
          f"{sent['full_model'] / 1e6:.0f} MB")  # fmt: skip
    settings = {"rounds": rounds, "steps": steps, "batch": batch, "max_length": max_length, "seed": seed}
    content = {**settings, **lines, "rows": counts, "traffic": sent, "scores": scores, "environment": environment()}
    write_json(folder / "federation.json", content)


if __name__ == "__main__":
    typer.run(main)
