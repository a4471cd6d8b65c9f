"""Review answers with a function of your own, beside a committee of models.

python examples/own_verifier.py                                        # smollm2-135m-instruct on this machine
python examples/own_verifier.py --base-url http://localhost:8000/v1 --model NAME

The same function serves a recipe file: `gra synthesize RECIPE --plugin examples/own_verifier.py`, with
`review: {verifiers: [{kind: at-most-80-words, mode: filter}]}` in the recipe.
"""

from __future__ import annotations

import argparse

import gra

SEEDS = [
    {"instruction": "Name three rivers.", "response": "The Nile, the Rhine, the Amazon.", "domain": "qa"},
    {"instruction": "Name three lakes.", "response": "Victoria, Baikal, Superior.", "domain": "qa"},
    {"instruction": "What is 12 + 30?", "response": "42", "domain": "math"},
    {"instruction": "What is 7 times 6?", "response": "42", "domain": "math"},
]


@gra.verifier("at-most-80-words", fault="it is too long")
def at_most_80_words(instruction: str, response: str) -> bool | None:
    """Pass short answers; say nothing about instructions that ask for a list."""
    if "list" in instruction.lower():
        return None
    return len(response.split()) <= 80


def main() -> None:
    """Make the dataset and print how its candidates ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a catalog name, or the server's name for it")
    parser.add_argument("--base-url", help="an OpenAI-compatible server; default: this machine")
    options = parser.parse_args()
    server = {"kind": "openai", "base_url": options.base_url}
    member = {"model": options.model, "sampling": {"max_tokens": 160}}
    recipe = {
        "name": "own-verifier",
        "arm": "refined",  # the committee answers the instructions and reviews the answers
        "refine": {"writes": "answer"},
        "committee": {
            "models": {
                "writer": {**member, "roles": ["generator"]},
                "reader": {**member, "roles": ["reviewer"], "dimensions": ["correctness"]},
            },
            "reviewers": 1,
        },
        "review": {
            "accept_mean": 1.0,
            "disputed": "accept",
            "comments": "never",
            "verifiers": [{"kind": "at-most-80-words", "mode": "filter"}],
        },
        "engine": server if options.base_url else {"max_model_len": 1024, "kv_cache_gb": 0.5},
        "tracking": {"wandb": "off"},
    }
    run = gra.synthesize(recipe, seeds=SEEDS)
    print(run)
    for candidate in run:
        print(f"{candidate.id}: {candidate.state}, {candidate.reason}")


if __name__ == "__main__":
    main()
