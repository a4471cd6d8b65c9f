"""Answer the instructions of a pandas DataFrame with a model, and get a DataFrame back.

python examples/from_dataframe.py                                        # smollm2-135m-instruct on this machine
python examples/from_dataframe.py --base-url http://localhost:8000/v1 --model NAME
"""

from __future__ import annotations

import argparse

import pandas as pd

import gra

SEEDS = pd.DataFrame(
    {
        "instruction": ["Name three rivers.", "What is 12 + 30?", "Write a haiku about bread."],
        "response": ["The Nile, the Rhine, the Amazon.", "42", "Warm loaf on the sill"],
        "domain": ["qa", "math", "creation"],
    }
)


def main() -> None:
    """Make the dataset and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a catalog name, or the server's name for it")
    parser.add_argument("--base-url", help="an OpenAI-compatible server; default: this machine")
    options = parser.parse_args()
    server = {"kind": "openai", "base_url": options.base_url}
    recipe = {
        "name": "from-dataframe",
        "arm": "distilled",  # one teacher answers the instructions
        "teacher": {"model": options.model, "sampling": {"max_tokens": 160}},
        "engine": server if options.base_url else {"max_model_len": 1024, "kv_cache_gb": 0.5},
        "tracking": {"wandb": "off"},
    }
    run = gra.synthesize(recipe, seeds=SEEDS)
    table = run.dataset().to_pandas()
    table["answer"] = [completion[0]["content"] for completion in table["completion"]]
    print(table[["id", "domain", "answer"]].to_string(index=False, max_colwidth=60))


if __name__ == "__main__":
    main()
