"""A whole synthesis on scripted engines, for the tests of rounds and of resuming.

`python tests/helpers/scripted_run.py FOLDER` makes the arm of FOLDER/recipe.yaml through the real `synthesize`, with
scripted models and a bag-of-words embedder. Every call that an engine receives is appended to FOLDER/asked.txt. With
a second and third argument, COUNT and SECONDS, the process kills itself with SIGKILL that long after COUNT calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gra.config.synthesis import SynthesisRecipe
from gra.core.hashing import canonical_json, digest
from gra.core.types import CHECKS, DIMENSIONS, Seed
from gra.engines.broker import call_request
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Fault, Json, Likelihood, ModelId, Reward, Text
from gra.ledger.ledger import Ledger
from gra.models.catalog import ResolvedModel
from gra.sandbox.permission import Permission

Script = Callable[[Call], Completion | Fault]
TOPICS = [
    "tides",
    "owls",
    "bread",
    "chess",
    "comets",
    "rivers",
    "bees",
    "maps",
    "clocks",
    "violins",
    "deserts",
    "kites",
]


def said(text: str, finish: str = "stop", **scores: float) -> Completion:
    """A completion whose token counts follow from its text."""
    return Completion(text, finish, 50, len(text.split()), scores=scores)  # type: ignore[arg-type]


def content(call: Call) -> str:
    """What the call asks, without who asked it or which attempt it is."""
    return digest({**call_request(call, 0), "attempt": None})


def answer_by_content(call: Call) -> Completion:
    """A deterministic committee: opinions depend on the model and on the text, and now and then an answer is no use."""
    # Asked for keywords anew, it has the same idea again, as small models do: so that there are duplicates.
    asked = replace(call, sample=0) if isinstance(call.output, Json) else call
    luck = random.Random(int(content(asked), 16))
    prompt = call.messages[-1][1]
    match call.output:
        case Text():
            return (
                said("", "stop")
                if luck.random() < 0.02
                else said(f"Answer {luck.randrange(10**6)} to: {prompt.splitlines()[0]}")
            )
        case Choice(labels):
            weights = {label: luck.random() + 0.05 for label in labels}
            total = sum(weights.values())
            return said(max(weights, key=weights.__getitem__), "length", **{k: v / total for k, v in weights.items()})
        case Likelihood(answer):
            return said("", logprob=-luck.random() * 40, tokens=float(len(answer.split())))
        case Reward():
            return said("", reward=8 * luck.random() - 4)
        case Json(schema):
            if luck.random() < 0.03:
                return said('{"cut', "length")
            return said(json.dumps(_fields(schema["properties"], prompt, luck)))


def _fields(properties: dict[str, Any], prompt: str, luck: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # What is good about an answer is in its text; now and then a reviewer is in a foul mood.
    shown = re.search(r"<exercise>\n(.*)\n</exercise>.*<answer>\n(.*)\n</answer>", prompt, re.DOTALL)
    exercise, answer = shown.groups() if shown else ("", "nothing")
    fits = len(set(answer.split()) & set(exercise.split())) / len(set(answer.split()))
    grade = 5.5 + 3 * fits + 2.5 * (zlib.crc32(answer.encode()) % 100 / 100) - 5 * (luck.random() < 0.12)
    for name in properties:
        if "enum" in properties[name]:
            found[name] = luck.choice(properties[name]["enum"])
        elif name == "keywords":
            found[name] = luck.sample(TOPICS, 3)
        elif name == "exercise":
            words = re.search(r"of this kind about (.*)\.", prompt)
            found[name] = f"Write about {words.group(1) if words else prompt} ({luck.randrange(3)})."
        elif name in CHECKS:
            found[name] = luck.random() > 0.03
        elif name in DIMENSIONS:
            found[name] = min(10, max(0, round(grade + luck.gauss(0, 0.6))))
        else:
            found[name] = f"A remark or summary, number {luck.randrange(10**6)}."
    return found


class WordEmbedder:
    """Hashed bags of words: texts with the same words are the same."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % 64] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def make_seeds(per_domain: int = 3) -> list[Seed]:
    return [
        Seed(f"{domain}-{i}", domain, f"Say something about {TOPICS[i]} for {domain} .", TOPICS[i],
             (domain, TOPICS[i], "seed"), f"Talk about {TOPICS[i]}.")
        for domain in ("qa", "math") for i in range(per_domain)
    ]  # fmt: skip


def make_recipe(**changes: Any) -> SynthesisRecipe:
    base: dict[str, Any] = {
        "name": "scripted",
        "seeds": {"source": "seeds.jsonl"},
        "domains": ["qa", "math"],
        "committee": {"models": {name: f"model-{name}" for name in "abcde"}},
        "rounds": {"count": 2, "accept": 12, "max_candidates": 200},
        "review": {"comments": "disputed"},
        "tracking": {"wandb": "off"},
    }
    return SynthesisRecipe.model_validate(base | changes)


class JitteryEngine(MockEngine):
    """Answer after a short random time."""

    def __init__(self, name: str, script: Script, *, up_to_s: float = 0.002, **options: Any) -> None:
        super().__init__(name, script, **options)
        self._up_to_s = up_to_s

    async def submit(self, call: Call) -> Completion | Fault:
        await asyncio.sleep(random.random() * self._up_to_s)
        return await super().submit(call)


def open_ledger(path: Path, run: str = "scripted") -> Ledger:
    """A ledger that does not wait for the disk: these tests are about what is written, not about power cuts."""
    ledger = Ledger(path, run)
    ledger._db.execute("PRAGMA synchronous=OFF")
    return ledger


def fake_resolve(name: str, **_: Any) -> ResolvedModel:
    """A model that is nowhere."""
    return ResolvedModel(name, Path("nowhere") / name, "local", f"sha256:{name}", "none", None, "", None, False, "")


def make(
    folder: Path,
    kill_after: int = 0,
    delay_s: float = 0.0,
    *,
    answer: Script | None = None,
    permission: Permission | None = None,
) -> None:
    """The arm of a folder that `write_job` prepared, or as much of it as there is time for."""
    from gra.config.loader import load_recipe
    from gra.config.synthesis import committee_of
    from gra.core.progress import View
    from gra.core.run_folder import RunFolder
    from gra.engines.broker import EnginePool
    from gra.evaluation.suite import suite_items
    from gra.serving.models import ModelRegistry, running
    from gra.synthesis import run_arm
    from gra.synthesis.decontamination import open_decontaminator
    from gra.synthesis.rounds import write_samples

    asked = os.open(folder / "asked.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    count = 0

    def die() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def script(call: Call) -> Completion | Fault:
        nonlocal count
        count += 1
        os.write(asked, f"{content(call)}\n".encode())
        if count == kill_after:
            threading.Thread(target=die, daemon=True).start()
        return (answer or answer_by_content)(call)

    class MockRegistry(ModelRegistry):
        def model_id(self, name: str, adapter: str | None = None) -> ModelId:
            return ModelId(name, f"sha256:{name}", "template", adapter or "")

        def template_tokens(self) -> frozenset[str]:
            return frozenset({"<|scripted|>"})

    write_samples.Embedder = WordEmbedder  # type: ignore[misc, assignment]
    write_samples.resolve = fake_resolve
    loaded = load_recipe(folder / "recipe.yaml", SynthesisRecipe)
    committee = committee_of(loaded.recipe)
    names = [member.model for member in committee.models.values()] if committee else []
    registry = MockRegistry(loaded.recipe.engine, {name: fake_resolve(name) for name in names})
    pool = EnginePool({name: JitteryEngine(name, script) for name in names}, 100.0)
    registry.candidates_began.set()
    screen = open_decontaminator(loaded, suite_items)
    job = run_arm.Job(loaded, RunFolder(folder).create(), folder / "ledger.sqlite", permission, screen)

    async def run() -> None:
        view = View(folder / "log.jsonl", quiet=True)
        async with running(pool, view):
            await run_arm.synthesize(job, registry, pool, view)

    with job.folder.lock():
        asyncio.run(run())


def write_job(folder: Path, recipe: SynthesisRecipe) -> None:
    """The recipe and its seeds, which still lack keywords and summaries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps(recipe.model_dump()), encoding="utf-8")
    rows = [
        {"id": s.id, "domain": s.domain, "instruction": s.instruction, "response": s.response} for s in make_seeds()
    ]
    (folder / "seeds.jsonl").write_text("".join(canonical_json(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), *(kind(given) for kind, given in zip((int, float), sys.argv[2:], strict=False)))
