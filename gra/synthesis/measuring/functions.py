"""Prepare the verifier `functions` before the first candidate: have functions written, and measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.core.processes.concurrency import at_once
from gra.core.rng import rng
from gra.core.types import Seed
from gra.synthesis.committee.calls import MissingAnswers, Unanswered
from gra.synthesis.committee.functions import SPOKEN, FunctionPanel, collect_votes, fit_functions, write_functions
from gra.synthesis.committee.verifiers import FunctionsVerifier, Verifier
from gra.synthesis.context import SynthesisContext
from gra.synthesis.measuring.controls import ControlItem, halves, response_controls

_DRAWS = 2  # functions that each member writes for a domain
_SHOWN = 2  # good and bad control items each that the prompt shows; they score no function


async def prepare_functions(
    context: SynthesisContext, verifiers: Sequence[Verifier], seeds: Sequence[Seed]
) -> dict[str, Any] | None:
    """Fill the panels of the verifier `functions`.

    Args:
        context: what the arm needs.
        verifiers: of the recipe.
        seeds: control items are made from them.

    Returns:
        The manifest's facts by domain; None where the recipe has no such verifier.

    Raises:
        MissingAnswers: when infrastructure left a member without an answer.
    """
    verifier = next((each for each in verifiers if isinstance(each, FunctionsVerifier)), None)
    if verifier is None:
        return None
    domains = verifier.recipe.domains or context.recipe.domains
    try:
        panels = await at_once(*(_panel(context, verifier, domain, seeds) for domain in domains))
    except Unanswered as gap:
        raise MissingAnswers(1, "functions that check responses", str(gap)) from None
    verifier.panels.update(zip(domains, panels, strict=True))
    for domain in [domain for domain, panel in verifier.panels.items() if panel.model is None]:
        context.view.note(f"! `kind: functions` will abstain in {domain}: no function separates good from bad there")
    return {domain: panel.facts for domain, panel in verifier.panels.items()}


async def _panel(
    context: SynthesisContext, verifier: FunctionsVerifier, domain: str, seeds: Sequence[Seed]
) -> FunctionPanel:
    plan = plan_function_items(seeds, domain, context.recipe.seed)
    if not plan.enough:
        return FunctionPanel((), None, {"written": 0, "kept": 0, "items": len(plan.items)})
    draws = verifier.recipe.draws or _DRAWS
    functions = await write_functions(context.broker, verifier.authors, domain, plan.shown, draws)
    votes = await collect_votes(verifier.sandbox, verifier.free, functions, plan.texts)
    return fit_functions(functions, votes, plan.good, plan.held)


@dataclass(frozen=True)
class FunctionItems:
    """Control items of a domain: those that the prompt shows, those that score functions, and which are held out."""

    shown: list[ControlItem]
    items: list[ControlItem]
    good: NDArray[np.bool_]
    held: NDArray[np.bool_]

    @property
    def enough(self) -> bool:
        """Whether there are enough good and bad items to choose functions by."""
        return min(int((self.good & ~self.held).sum()), int((~self.good & ~self.held).sum())) >= SPOKEN

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Instruction and response of each item."""
        return [(item.instruction, item.response) for item in self.items]


def plan_function_items(seeds: Sequence[Seed], domain: str, seed: int) -> FunctionItems:
    """Make control items from the seeds of a domain; no seed is in two of the parts."""
    own = [each for each in seeds if each.domain == domain]
    items = response_controls(own, len(own), seed)
    shown = _shown(items, seed, domain)
    used = {item.seed for item in shown}
    items = [item for item in items if item.seed not in used]
    chosen = {item.name for item in halves(items, seed)[0]}
    held = np.array([item.name not in chosen for item in items], bool)
    return FunctionItems(shown, items, np.array([item.is_good for item in items], bool), held)


def _shown(items: Sequence[ControlItem], seed: int, domain: str) -> list[ControlItem]:
    """Return good and bad items for the prompt, the bad ones of different kinds where there are."""
    random = rng(seed, "functions", domain)
    mixed = random.sample(list(items), len(items))
    good = [item for item in mixed if item.is_good][:_SHOWN]
    kinds = {item.kind: item for item in mixed if not item.is_good}
    return [*good, *list(kinds.values())[:_SHOWN]]
