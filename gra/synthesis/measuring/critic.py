"""Make training rows for a critic from control items: is this response correct, yes or no?

The prompt is the one that a reviewer with `ask: yes_no` and `dimensions: [correctness]` sees. So an adapter that is
trained on these rows reviews as a member with that `ask`. Control items that trained a critic must not calibrate it:
give the next run other `control_questions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gra.core.hashing import canonical_json
from gra.synthesis.measuring.controls import ControlItem
from gra.synthesis.prompts import SCORE_QUESTIONS, render

QUESTION = SCORE_QUESTIONS["correctness"]


def critic_rows(items: Sequence[ControlItem], raw: Mapping[str, Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """Return one training row for each control item with a response.

    Args:
        items: control items for responses.
        raw: by reviewer, raw scores by item name.
    """
    for item in items:
        prompt = render("score_yes_no", instruction=item.instruction, response=item.response, question=QUESTION)
        yield {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": "yes" if item.is_good else "no"}],
            "id": item.name,
            "kind": str(item.kind),
            "right": item.is_good,
            "instruction": item.instruction,
            "response": item.response,
            "author": item.author,
            "scores": canonical_json({name: given[item.name] for name, given in raw.items() if item.name in given}),
        }
