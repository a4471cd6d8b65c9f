"""Describe a finished federation: its traffic, and the card of its student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gra.config.training import FederationRecipe

PRIVACY = (
    "not differentially private: adapters can leak rows that they were trained on, because nothing is clipped and no "
    "noise is added"
)
_CARD = """---
base_model: {model}
library_name: peft
license: {licence}
tags: [gra, lora, federated]
---

# {name}

A LoRA adapter of `{model}`, trained with GRA on the rows of {clients} owners in {rounds} rounds of {steps} steps each.
Only adapters, row counts and metrics left their machines (`aggregate: {aggregate}`).

It is {privacy}. The base model's license applies to this one.

| client | rows | rounds |
|---|---|---|
{lines}
"""


def traffic(history: Sequence[Mapping[str, Any]], clients: int, full_model: int) -> dict[str, int]:
    """Count the bytes of all messages, and those of as many messages with the whole model.

    Args:
        history: The manifest's facts of each round.
        clients: To whom each round's message went.
        full_model: Bytes of the model's weights.
    """
    received = [client["received"] for turn in history for client in turn["clients"].values()]
    messages = clients * len(history) + len(received)
    return {
        "messages": messages,
        "sent": clients * sum(turn["sent"] for turn in history),
        "received": sum(received),
        "full_model": messages * full_model,
    }


def card(recipe: FederationRecipe, model: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of README.md.

    Args:
        recipe: The federation.
        model: The manifest's facts of the base model.
        history: The manifest's facts of each round.
    """
    lines = []
    for client in recipe.clients:
        turns = [turn["clients"][client.name] for turn in history if client.name in turn["clients"]]
        lines.append(f"| {client.name} | {turns[-1]['rows'] if turns else 0} | {len(turns)} |")
    return _CARD.format(
        model=model["name"], licence=model["licence"], name=recipe.name, clients=len(recipe.clients),
        rounds=recipe.rounds, steps=recipe.train["max_steps"], aggregate=recipe.aggregate,
        privacy=PRIVACY, lines="\n".join(lines),
    )  # fmt: skip
