"""Generate with a committee of models behind an OpenAI-compatible server, and show rows as they are accepted.

python examples/openai_server.py --base-url http://localhost:8000/v1 --models NAME_A NAME_B NAME_C

Any server will do: `vllm serve`, llama.cpp, Ollama, or a paid service. Name the environment variable that holds the
key with --api-key-env. Answers are recorded, so a second start asks for nothing again.
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


def main() -> None:
    """Stream the rows and print what the run cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="at least three, for three roles")
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="the variable that holds the key")
    parser.add_argument("--dry-run", action="store_true", help="only forecast the cost")
    options = parser.parse_args()
    recipe = {
        "name": "openai-server",
        "arm": "refined",  # the committee answers the instructions and reviews the answers
        "refine": {"writes": "answer"},
        "committee": {"models": {name: name for name in options.models}, "reviewers": 1},
        "review": {"accept_mean": 5.0, "comments": "disputed"},
        "engine": {"kind": "openai", "base_url": options.base_url, "api_key_env": options.api_key_env},
        "budget": {"tokens": 100_000},
        "tracking": {"wandb": "off"},
    }
    if options.dry_run:
        print(gra.estimate_cost(recipe, seeds=SEEDS))
        return
    with gra.stream(recipe, seeds=SEEDS) as stream:
        for row in stream:
            print(f"{row['id']}: {row['completion'][0]['content']}")
    print(stream.run)
    print(f"spent: {stream.run.manifest['synthesis']['spent']['tokens']:,} tokens")


if __name__ == "__main__":
    try:
        main()
    except gra.GraError as error:
        raise SystemExit(f"error: {error}") from None
