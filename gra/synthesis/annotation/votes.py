"""Turn the labels that members gave to texts into the committee's, and compare them with gold.

Each label that any member gave is a candidate, and every member votes for or against it. A member that gave no usable
answer abstains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.config.arms import AnnotateConfig
from gra.core.text.spans import AlignedSpans, LabelSpan, without_overlaps
from gra.stats.aggregation import label_model
from gra.stats.annotation import f1_gain, fit_votes, majority, micro_f1

Votes = NDArray[np.float64]


@dataclass(frozen=True)
class AnnotatedText:
    """A text, what each member found in it (None: no usable answer), and the labels of people where they are known."""

    id: str
    text: str
    found: Mapping[str, AlignedSpans | None]
    gold: tuple[LabelSpan, ...] | None = None

    def candidates(self) -> list[LabelSpan]:
        """Return every label that a member gave, left to right."""
        return sorted({span for given in self.found.values() if given is not None for span in given.spans})

    def votes(self, members: Sequence[str]) -> Votes:
        """Return the votes for the candidates, members x candidates: 1, 0, or NaN for an abstention."""
        spans = self.candidates()
        rows = []
        for name in members:
            given = self.found[name]
            rows.append([np.nan if given is None else float(span in given.spans) for span in spans])
        return np.array(rows, float).reshape(len(members), len(spans))


@dataclass(frozen=True)
class VoteCount:
    """Give each candidate label of a text its probability.

    Attributes:
        probabilities: by text id, of each candidate.
        facts: the manifest's entries: weights or accuracies by member.
        depends_on: what the probabilities of a text depend on beside its own votes.
    """

    probabilities: Mapping[str, Mapping[LabelSpan, float]]
    facts: dict[str, Any] = field(default_factory=dict)
    depends_on: Any = None


def count_votes(
    config: AnnotateConfig, members: Sequence[str], controls: Sequence[AnnotatedText], texts: Sequence[AnnotatedText]
) -> VoteCount:
    """Count the votes of all texts in the recipe's way.

    Args:
        config: the recipe's section.
        members: names of the annotators.
        controls: labeled texts that measure the members; only `votes: measured` needs them.
        texts: the texts to decide.
    """
    if config.votes == "label_model":
        table = np.hstack([np.empty((len(members), 0)), *(text.votes(members) for text in texts)])
        if not table.size:
            return VoteCount({text.id: {} for text in texts})
        model = label_model(table)
        right = iter(model.right)
        known = {text.id: {span: next(right) for span in text.candidates()} for text in texts}
        merged = [[members[place] for place in group] for group in model.groups if len(group) > 1]
        accuracy = dict(zip(members, (round(value, 3) for value in model.accuracy), strict=True))
        return VoteCount(known, {"accuracy": accuracy, "merged": merged}, np.nan_to_num(table, nan=-1).tolist())
    count: Callable[[Votes], Votes] = majority
    facts: dict[str, Any] = {}
    if config.votes == "measured":
        table = np.hstack([np.empty((len(members), 0)), *(text.votes(members) for text in controls)])
        count = fitted = fit_votes(table, [s in (t.gold or ()) for t in controls for s in t.candidates()])
        weights = dict(zip(members, (round(weight, 6) for weight in fitted.weights), strict=True))
        facts = {"weights": weights, "intercept": round(fitted.intercept, 6), "candidates": table.shape[1]}
    known = {}
    for text in texts:
        spans = text.candidates()
        values = count(text.votes(members))
        known[text.id] = {span: float(value) for span, value in zip(spans, values, strict=True)}
    return VoteCount(known, facts, facts)


@dataclass(frozen=True)
class LabelVerdict:
    """The committee's verdict on a text: labels that are sure, and places in doubt, each by its likeliest label.

    `doubtful` has the probability of each. `certainty` is the least probability of a decision that is not in doubt: to
    keep a label, or to leave it out.
    """

    sure: tuple[LabelSpan, ...]
    doubtful: Mapping[LabelSpan, float]
    certainty: float


def decide_labels(probabilities: Mapping[LabelSpan, float], config: AnnotateConfig) -> LabelVerdict:
    """Decide the labels of one text by the probabilities of the candidates.

    A place is in doubt if its likeliest label is, and no sure label overlaps it. With `kind: label` a text
    has exactly one label. It is in doubt unless it is above the range.
    """
    low, high = config.doubt
    if config.kind == "label":  # labels cover the whole text, so the likeliest one stays
        best = without_overlaps(probabilities, probabilities)
        if not best or probabilities[best[0]] <= high:
            return LabelVerdict((), {span: probabilities[span] for span in best}, 1.0)
        return LabelVerdict(best, {}, probabilities[best[0]])
    sure = without_overlaps([span for span, p in probabilities.items() if p > high], probabilities)
    unsure = [span for span, p in probabilities.items() if low <= p <= high]
    kept = without_overlaps([*sure, *unsure], {**probabilities, **dict.fromkeys(sure, 2.0)})
    doubtful = {span: probabilities[span] for span in kept if span not in sure}
    settled = [max(p, 1 - p) for span, p in probabilities.items() if span not in doubtful]
    return LabelVerdict(sure, doubtful, min(settled, default=1.0))


def gold_facts(
    texts: Sequence[AnnotatedText],
    decided: Mapping[str, Sequence[LabelSpan]],
    controls: Sequence[AnnotatedText],
    members: Sequence[str],
    config: AnnotateConfig,
) -> dict[str, Any]:
    """Compare labels with gold: the committee, each member alone, and the plain majority; empty without gold.

    The best member is chosen on the control texts, or on these texts where there are none.

    Args:
        texts: the decided texts.
        decided: the committee's labels by text id.
        controls: labeled texts that measured the members.
        members: names of the annotators.
        config: the recipe's section.
    """
    known = [text for text in texts if text.gold is not None and text.id in decided]
    if not known:
        return {}
    gold = [text.gold or () for text in known]
    committee = [decided[text.id] for text in known]
    alone = {name: [_spans_of(text, name) for text in known] for name in members}
    equal = count_votes(config.model_copy(update={"votes": "majority"}), members, (), known).probabilities
    voted = [_most_voted(equal[text.id], config) for text in known]
    measured_on = controls or known
    truth = [text.gold or () for text in measured_on]
    best = max(members, key=lambda name: micro_f1(truth, [_spans_of(text, name) for text in measured_on]).f1)
    return {
        "texts": len(known),
        "committee": asdict(micro_f1(gold, committee)),
        "majority": asdict(micro_f1(gold, voted)),
        "members": {name: asdict(micro_f1(gold, found)) for name, found in alone.items()},
        "best_member": best,
        "gain_over_best_member": asdict(f1_gain(gold, committee, alone[best])),
        "gain_over_majority": asdict(f1_gain(gold, committee, voted)),
    }


def _spans_of(text: AnnotatedText, member: str) -> tuple[LabelSpan, ...]:
    given = text.found[member]
    return () if given is None else given.spans


def _most_voted(shares: Mapping[LabelSpan, float], config: AnnotateConfig) -> tuple[LabelSpan, ...]:
    """Return what more than half of the members gave, or the most frequent label of a text."""
    if config.kind == "label":
        return without_overlaps(shares, shares)
    return without_overlaps([span for span, share in shares.items() if share > 0.5], shares)
