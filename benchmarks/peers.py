"""Rows a second beside other systems: one text a row from a local server that answers at once.

Run as: python benchmarks/peers.py [distilabel=PYTHON] [data-designer=PYTHON] [curator=PYTHON] [--rows 5000]
        [--repeat 3] [--json FILE]
PYTHON is the interpreter of an environment in which that system is installed (`pip install distilabel openai
requests pillow`, `pip install data-designer`, `pip install bespokelabs-curator`): they cannot share one with vLLM.

Each system answers the same seeds through its own OpenAI client and leaves a dataset; ours is the `distilled` arm with
its ledger written through to the disk. The systems take turns. Two figures, both of the whole command with imports and
dataset: its seconds for a few rows (FEW), and the rows a second by which it gets longer with more of them. This file
is run by every PYTHON, so it begins with nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

AT_ONCE = 64
FEW = 200
INSTRUCTION = "Write a paragraph about rivers, number"


def ours(url: str, rows: int, folder: Path) -> None:
    import yaml

    with (folder / "seeds.jsonl").open("w") as seeds:
        for number in range(rows):
            seeds.write(json.dumps({"instruction": f"{INSTRUCTION} {number}", "output": "-"}) + "\n")
    recipe = {
        "name": "peers", "arm": "distilled", "seeds": {"source": str(folder / "seeds.jsonl")},
        "engine": {"kind": "openai", "base_url": url, "concurrency": AT_ONCE}, "teacher": {"model": "model-a"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    from gra.cli.main import app

    app(["synthesize", str(folder / "recipe.yaml")], standalone_mode=False)
    import pyarrow.parquet

    assert pyarrow.parquet.read_metadata(next(folder.rglob("train.parquet"))).num_rows == rows


def distilabel(url: str, rows: int, folder: Path) -> None:
    from distilabel.models import OpenAILLM  # type: ignore[import-not-found]
    from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
    from distilabel.steps import LoadDataFromDicts  # type: ignore[import-not-found]
    from distilabel.steps.tasks import TextGeneration  # type: ignore[import-not-found]

    with Pipeline(name="peers", cache_dir=folder / "cache") as pipeline:
        data = [{"instruction": f"{INSTRUCTION} {number}"} for number in range(rows)]
        # A batch is asked at once and waited for; its default of 50 is slower.
        load = LoadDataFromDicts(data=data, batch_size=500)
        model = OpenAILLM(model="model-a", base_url=url, api_key="none")
        load >> TextGeneration(llm=model, input_batch_size=500)
    made = pipeline.run()
    made.save_to_disk(folder / "dataset")
    assert sum(text is not None for text in made["default"]["train"]["generation"]) == rows


def data_designer(url: str, rows: int, folder: Path) -> None:
    import data_designer.config as dd  # type: ignore[import-not-found]
    import pandas
    from data_designer.interface import DataDesigner  # type: ignore[import-not-found]

    pandas.DataFrame({"number": range(rows)}).to_parquet(folder / "seeds.parquet")
    provider = dd.ModelProvider(name="local", endpoint=url, provider_type="openai", api_key="none")
    parameters = dd.ChatCompletionInferenceParams(max_parallel_requests=AT_ONCE)
    model = dd.ModelConfig(alias="a", model="model-a", provider="local", inference_parameters=parameters)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=str(folder / "seeds.parquet")))
    prompt = INSTRUCTION + " {{ number }}"
    builder.add_column(dd.LLMTextColumnConfig(name="response", prompt=prompt, model_alias="a"))
    designer = DataDesigner(artifact_path=folder / "artifacts", model_providers=[provider])
    assert len(designer.create(builder, num_records=rows, dataset_name="peers").load_dataset()) == rows


def curator(url: str, rows: int, folder: Path) -> None:
    os.environ |= {"CURATOR_CACHE_DIR": str(folder), "TELEMETRY_ENABLED": "false", "OPENAI_API_KEY": "none"}
    from bespokelabs.curator import LLM  # type: ignore[import-not-found]

    limits = {"max_requests_per_minute": 10_000_000, "max_tokens_per_minute": 10_000_000_000}
    model = LLM(model_name="openai/model-a", backend="litellm", backend_params={"base_url": url, **limits})
    made = model([f"{INSTRUCTION} {number}" for number in range(rows)])
    made = getattr(made, "dataset", made)
    made.save_to_disk(str(folder / "dataset"))
    assert len(made) == rows


SYSTEMS: dict[str, Callable[[str, int, Path], None]] = {
    "ours": ours,
    "distilabel": distilabel,
    "data-designer": data_designer,
    "curator": curator,
}


def measure(system: str, python: str, rows: int) -> float:
    """Seconds of one system's command, against a server of its own.

    Raises:
        SystemExit: if the system ended in an error or asked fewer questions than there are rows.
    """
    server_file = str(Path(__file__).parent / "instant_server.py")
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, server_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it,
    ):
        assert it.stdin is not None
        assert it.stdout is not None
        url = f"http://127.0.0.1:{it.stdout.readline().strip()}/v1"
        begun = time.perf_counter()
        command = [python, __file__, "--inside", system, url, str(rows), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = time.perf_counter() - begun
        it.stdin.close()
        asked = int(it.stdout.readline())
    if done.returncode or asked < rows:
        raise SystemExit(f"{done.stdout}\n{system} ended with {done.returncode} after {asked} requests")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("others", nargs="*", metavar="SYSTEM=PYTHON")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.rows <= FEW:
        parser.error(f"--rows must be more than {FEW}, against which it is measured, not {given.rows}")
    if strange := [other for other in given.others if "=" not in other]:
        parser.error(f"`{strange[0]}` is not SYSTEM=PYTHON, such as distilabel=/path/to/python")
    pythons = {"ours": sys.executable} | dict(other.split("=", 1) for other in given.others)
    if unknown := pythons.keys() - SYSTEMS.keys():
        parser.error(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    taken: dict[str, dict[int, list[float]]] = {name: {FEW: [], given.rows: []} for name in pythons}
    for _ in range(given.repeat):
        for name, python in pythons.items():
            for rows, seconds in taken[name].items():
                seconds.append(measure(name, python, rows))
    print(f"| system | {FEW} rows, s | {given.rows:,} rows, s | rows a second | over ours |\n|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for name, by_rows in taken.items():
        few, many = (median(seconds) for seconds in by_rows.values())
        rate = (given.rows - FEW) / (many - few)
        found[name] = {"few_s": few, "many_s": many, "rows_per_s": rate, "runs": by_rows}
        print(f"| {name} | {few:.1f} | {many:.1f} | {rate:,.0f} | {rate / found['ours']['rows_per_s']:.2f} |")
    if given.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
        given.json.write_text(json.dumps({"rows": given.rows, "systems": found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        system, url, rows, folder = sys.argv[2:]
        with contextlib.chdir(folder):
            SYSTEMS[system](url, int(rows), Path(folder))
    else:
        main()
