"""A committee that answers at once with made-up words, so that only GRA's own work is measured."""

from __future__ import annotations

import itertools
import json
import random
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gra.config.synthesis import SynthesisRecipe
from gra.core.types import CHECKS, DIMENSIONS, Seed
from gra.engines.types import Call, Completion, Json, ModelId
from gra.synthesis.candidate import CandidateSettings
from gra.synthesis.committee.members import make_members

DOMAINS = ["qa", "math"]
_WORDS = [
    *("tides", "owls", "bread", "chess", "comets", "rivers", "bees", "maps", "clocks", "violins", "deserts", "kites"),
    *("harbours", "moss", "lanterns", "glaciers", "typewriters", "saffron", "orchards", "semaphores"),
]
_TEXT = "Rivers run to the sea and bees fly home before the rain. " * 8
_counter = itertools.count()


def answer(call: Call) -> Completion:
    """An answer of ordinary length; about one candidate in four is accepted."""
    luck = random.Random(zlib.crc32(call.messages[-1][1].encode()) ^ (call.sample << 16))
    text = _TEXT if not isinstance(call.output, Json) else _json(call.output.schema["properties"], luck)
    return Completion(text, "stop", 400, len(text) // 4)


def _json(properties: dict[str, Any], luck: random.Random) -> str:
    found: dict[str, Any] = {}
    grade = 8 if luck.random() < 0.6 else 5
    for name in properties:
        if name == "keywords":
            found[name] = luck.sample(_WORDS, 3)
        elif name in CHECKS:
            found[name] = luck.random() > 0.03
        elif name in DIMENSIONS:
            found[name] = min(10, grade + luck.randrange(3))
        elif name == "exercise":
            found[name] = f"{_words(luck, 30)} ({next(_counter)})"
        else:
            found[name] = _words(luck, 15)
    return json.dumps(found)


def _words(luck: random.Random, count: int) -> str:
    return " ".join(luck.choices(_WORDS, k=count))


# How much of a vector lies along each direction: falling off, as with sentence embeddings.
_SPECTRUM = (np.arange(384, dtype=np.float32) + 8) ** -0.7


class Embedder:
    """Unit vectors of MiniLM's size that have nothing to do with the text: hardly anything is a duplicate."""

    def encode(self, texts: Sequence[str]) -> Any:
        """Float32 [texts, 384]."""
        if not texts:
            return np.zeros((0, 384), np.float32)
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(384, np.float32) for text in texts]
        vectors = np.stack(rows) * _SPECTRUM
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recipe(candidates: int, accept: int) -> SynthesisRecipe:
    """Five models, three reviewers, one round, the paper's gate."""
    return SynthesisRecipe.model_validate({
        "name": "benchmark",
        "seeds": {"source": "none"},
        "domains": DOMAINS,
        "committee": {"models": {name: f"model-{name}" for name in "abcde"}},
        "rounds": {"count": 1, "accept": accept, "max_candidates": candidates},
        "review": {"comments": "never"},
        "tracking": {"wandb": "off"},
    })  # fmt: skip


def setting(made: SynthesisRecipe) -> CandidateSettings:
    """The committee of a recipe, on models that are nowhere."""
    assert made.committee is not None
    ids = {n: ModelId(m.model, f"sha256:{m.model}", "t") for n, m in made.committee.models.items()}
    return CandidateSettings(made, make_members(made.committee, made.review, ids))


def pool() -> dict[str, list[Seed]]:
    """Fifty seeds a domain."""
    luck = random.Random(0)
    return {
        domain: [
            Seed(f"{domain}-{i}", domain, _words(luck, 30), _words(luck, 60), tuple(luck.sample(_WORDS, 3)), "About.")
            for i in range(50)
        ]
        for domain in DOMAINS
    }
