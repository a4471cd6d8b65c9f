"""Read what control items show about a panel of reviewers, and say it in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.run_folder import RunFolder


@dataclass(frozen=True)
class Measured:
    """What control items showed about the reviewers of a run: AUC by reviewer, and sentences on the panel."""

    auc: Mapping[str, float]
    sentences: tuple[str, ...]


def read_measured(run: Path) -> Measured:
    """Read what control items showed; nothing for a run that measured no reviewer or is not finished."""
    facts = RunFolder(run).manifest().get("synthesis", {})
    panel = facts.get("panel")
    auc = {name: float(measured["auc"]) for name, measured in facts.get("reviewers", {}).items()}
    return Measured(auc, tuple(panel_sentences(panel)) if panel else ())


def panel_sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return what control items say about a panel, in sentences; `facts` is the manifest's section."""
    if "open" in facts:
        domains = ", ".join(facts["open"]["domains"])
        closed = {name: value for name, value in facts.items() if name != "open"}
        opened = [f"In open domains ({domains}): {sentence}" for sentence in panel_sentences(facts["open"])]
        return [*panel_sentences(closed), *opened]
    found = facts.get("statistics")
    if not found:
        return ["The panel could not be measured: the control items lack right or wrong responses."]
    items = found["auc"]["good"] + found["auc"]["bad"]
    whole, (best, single), (gain, low, high) = found["auc"], found["best"], found["gain"]
    sentences = [
        f"The panel separates right from wrong on {items} {facts['target']} control items with AUC {whole['auc']:.2f} "
        f"[{whole['low']:.2f}, {whole['high']:.2f}]; 0.5 is a coin."
    ]
    if len(facts["kinds"]) > 1 and gain is not None:
        if low > 0:
            sentences.append(f"It is better than its best member, {best} ({single:.2f}).")
        elif high < 0:
            sentences.append(f"It is worse than {best} alone ({single:.2f}); let that one review alone.")
        else:
            sentences.append(f"The panel is no better than {best} alone ({single:.2f}), as far as these items show.")
    if found["votes"] is not None and len(facts["kinds"]) > 1:
        sentences.append(f"Its {len(facts['kinds'])} reviewers are worth {found['votes']:.1f} independent ones.")
    if facts["weights"] is not None and not facts["weights"]["used"]:
        sentences.append("Fitted weights showed no sure gain over the mean, so the mean is used.")
    if chain := facts.get("chain"):
        gain, low, high = chain["gain"]
        best, single = max(chain["links"].items(), key=lambda link: link[1])
        order, cost = ", then ".join(chain["order"]), chain["cost"]
        sentences.append(
            f"The chain {order} judges {chain['accuracy']:.0%} of them right at {cost:.0%} of the full panel's cost; "
            f"{best} alone {single:.0%}, all of them together {chain['full']:.0%}."
        )
        sentences.append(
            f"It gains {100 * gain:+.1f} points [{100 * low:.1f}, {100 * high:.1f}] over random routing of equal cost."
        )
    checks = facts.get("instruction_checks", {})
    faults = [(kind, rate) for kind, rate in checks.items() if kind != "good"]
    if faults and "good" in checks:
        count = sum(rate["items"] for _, rate in faults)
        caught = sum(rate["rejected"] * rate["items"] for _, rate in faults) / count
        sentences.append(
            f"The instruction checks reject {caught:.0%} of {count} faulty control instructions, and "
            f"{checks['good']['rejected']:.0%} of good ones."
        )
    return sentences


def competence_sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return what choosing by competence is worth, in sentences; `facts` is the manifest's section, or empty."""
    sentences = []
    for role, figures in (("generators", facts.get("generators")), ("reviewers", facts.get("reviewers"))):
        if figures is None:
            continue
        ((best, single),), (gain, low, high) = figures["best"].items(), figures["gain"]
        sentences.append(
            f"Choosing {role} by competence is right on {figures['router']:.0%} of {figures['questions']} items, "
            f"{best} alone on {single:.0%}, the best for each on {figures['oracle']:.0%}; "
            f"the gain is {100 * gain:+.1f} points [{100 * low:.1f}, {100 * high:.1f}], and "
            f"{figures['differs']:.0%} of the items go to another member."
        )
    return sentences
