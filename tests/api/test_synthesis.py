"""Datasets made from Python on scripted engines: whole, streamed, in a running loop, interrupted and resumed."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mock_engines import UseEngines
from mock_engines import mock_engines as mock_engines
from scripted_run import answer_by_content, make_recipe, make_seeds, write_job

import gra

ROWS: list[dict[str, Any]] = [
    {"id": s.id, "domain": s.domain, "instruction": s.instruction, "response": s.response} for s in make_seeds()
]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its seeds in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, make_recipe(name="small", rounds={"count": 2, "accept": 6, "max_candidates": 60}))
    return tmp_path / "recipe.yaml"


def in_memory() -> dict[str, Any]:
    recipe = make_recipe(name="small", rounds={"count": 1, "accept": 6, "max_candidates": 60}).model_dump()
    del recipe["seeds"]
    return recipe


def test_synthesize_makes_a_run_and_again_asks_nothing(job: Path, mock_engines: UseEngines) -> None:
    calls = mock_engines()
    run = gra.synthesize(job, quiet=True)
    assert run.counts["accepted"] == len(run.dataset("train")) == 12
    asked = len(calls)
    again = gra.synthesize(gra.load_recipe(job), quiet=True)
    assert len(calls) == asked > 0
    assert again.rows() == run.rows()
    assert run.path == Path("runs/small")


def test_synthesize_works_in_a_running_loop(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()

    async def cell() -> gra.Run:
        return gra.synthesize(job, quiet=True)

    assert asyncio.run(cell()).counts["accepted"] == 12


def test_estimate_works_in_a_running_loop(job: Path) -> None:
    async def cell() -> str:
        served = {"kind": "openai", "base_url": "http://localhost:1/v1"}
        return str(gra.estimate_cost(job, [f"engine={json.dumps(served)}"]))

    assert "what it will cost" in asyncio.run(cell())


def test_stream_yields_every_row_of_the_dataset_once(job: Path, mock_engines: UseEngines) -> None:
    calls = mock_engines()
    stream = gra.stream(job, quiet=True)
    with pytest.raises(gra.DataError, match="is not finished"):
        _ = stream.run
    streamed = list(stream)
    ids = [row["id"] for row in streamed]
    final = stream.run.rows()
    assert len(set(ids)) == len(ids) >= len(final) == 12
    assert {row["id"] for row in final} <= set(ids)
    by_id = {row["id"]: row for row in streamed}
    assert all(by_id[row["id"]] == row for row in final)
    asked = len(calls)
    assert [row["id"] for row in gra.stream(job, quiet=True)] == [row["id"] for row in final]
    assert len(calls) == asked


def test_left_stream_ends_its_run_and_the_next_one_goes_on(job: Path, mock_engines: UseEngines) -> None:
    calls = mock_engines(delay_s=0.02)
    whole = len(gra.synthesize(job, ["name=other"], quiet=True)) and len(calls)
    calls.clear()
    for _ in gra.stream(job, quiet=True):
        break
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "gra"]
    first = len(calls)
    time.sleep(0.2)
    assert len(calls) == first  # nothing is asked after the loop was left
    assert 0 < first < whole
    run = gra.synthesize(job, quiet=True)  # the folder is not locked any more
    assert run.counts["accepted"] == 12
    content = [call.messages for call in calls]
    repeated = len(content) - len({json.dumps([m, str(c.output), c.sample, c.model.name, c.candidate])
                                   for m, c in zip(content, calls, strict=True)})  # fmt: skip
    assert repeated < first / 2  # at most the calls that were in flight


def test_closed_stream_yields_nothing_more(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()
    with gra.stream(job, quiet=True) as stream:
        first = next(stream)
    assert first["prompt"][0]["role"] == "user"
    assert list(stream) == []


def test_copied_seeds_are_streamed(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()
    rows = list(gra.stream(job, ["arm=vanilla", "committee=null"], quiet=True))
    assert [row["completion"][0]["content"] for row in rows] == [row["response"] for row in ROWS]


@pytest.mark.parametrize("streamed", [False, True])
def test_interrupt_ends_the_run_cleanly(job: Path, mock_engines: UseEngines, streamed: bool) -> None:
    mock_engines(delay_s=0.1)
    timer = threading.Timer(1.0, lambda: signal.raise_signal(signal.SIGINT))

    async def cell() -> None:
        list(gra.stream(job, quiet=True)) if streamed else gra.synthesize(job, quiet=True)

    loop = asyncio.new_event_loop()  # `asyncio.run` has its own handler of Ctrl-C, a notebook has none
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    loop.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gra"]
    mock_engines()
    assert gra.synthesize(job, quiet=True).counts["accepted"] == 12


def frame() -> Any:
    import pandas as pd

    return pd.DataFrame([*ROWS[:-1], ROWS[-1] | {"summary": float("nan")}])


def dataset() -> Any:
    import datasets

    return datasets.Dataset.from_list(ROWS)


@pytest.mark.parametrize(
    "given", [lambda: ROWS, lambda: iter(ROWS), frame, dataset, lambda: pa.Table.from_pylist(ROWS)],
    ids=["list", "generator", "pandas", "datasets", "pyarrow"],
)  # fmt: skip
def test_rows_in_memory_are_kept_by_their_content(
    given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_engines: UseEngines
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = mock_engines()
    run = gra.synthesize(in_memory(), seeds=given(), quiet=True)
    assert run.counts["accepted"] == 6
    asked = len(calls)
    gra.synthesize(in_memory(), seeds=given(), quiet=True)
    assert len(calls) == asked
    assert len(list((run.path / "inputs").iterdir())) == 1


def test_seeds_are_taken_from_a_path_and_from_a_run(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()
    first = gra.synthesize(in_memory(), seeds=job.parent / "seeds.jsonl", quiet=True)
    second = gra.synthesize(in_memory() | {"name": "second"}, seeds=first, quiet=True)
    assert second.counts["accepted"] == 6


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([], "seeds: there are no rows"),
        (5, "seeds: a int has no rows; give a path"),
        ({"train": ROWS}, "seeds: this is a mapping with the keys train; give one of its parts"),
        (["text"], "seeds: row 1 is a str; each row must be a mapping"),
        ([{"instruction": object(), "response": "x"}], "seeds: row 1 holds a object"),
        ([{"question": "x"}], "rows have the keys question, which no known form has"),
        ("missing.jsonl", "`missing.jsonl` is not there"),
    ],
)
def test_wrong_seeds_are_one_sentence(
    seeds: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(gra.GraError, match=sentence) as wrong:
        gra.synthesize(in_memory(), seeds=seeds, quiet=True)
    assert wrong.value.exit_code == 2


@pytest.mark.parametrize("call", [gra.synthesize, gra.stream, gra.estimate_cost])
def test_wrong_recipe_is_the_sentence_of_the_command_line(call: Any, job: Path) -> None:
    with pytest.raises(gra.RecipeError, match=r"unknown key `rounds.acept`; did you mean `accept`\?"):
        call(job, ["rounds.acept=3"])
    with pytest.raises(gra.RecipeError, match="this is a SuiteConfig; wanted here is a SynthesisRecipe"):
        call(gra.SuiteConfig(name="x", tasks=[{"name": "t", "kind": "short", "data": "d"}]))
    with pytest.raises(gra.RecipeError, match="overrides are for a recipe file"):
        call(in_memory(), ["seed=1"])


def test_spent_budget_is_an_error_with_a_valid_dataset(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()
    with pytest.raises(gra.BudgetExhausted, match="stopped at the budget"):
        gra.synthesize(job, ["budget.tokens=6000"], quiet=True)
    assert gra.load_run("runs/small").counts["accepted"] >= 0


def test_failing_engine_is_one_sentence(job: Path, mock_engines: UseEngines) -> None:
    def fail(call: Any) -> Any:
        raise gra.EngineUnavailable("the engine of `model-a` was lost")

    mock_engines(fail)
    with pytest.raises(gra.EngineUnavailable, match="was lost"):
        gra.synthesize(job, quiet=True)
    with pytest.raises(gra.EngineUnavailable, match="was lost"):
        list(gra.stream(job, quiet=True))


def test_recipe_made_in_python_is_resolved_with_its_origin(job: Path, mock_engines: UseEngines) -> None:
    mock_engines(answer_by_content)
    recipe = gra.SynthesisRecipe(
        name="made", seeds={"source": "seeds.jsonl"}, domains=["qa", "math"],
        committee=gra.Committee(models={name: gra.Member(model=f"model-{name}") for name in "abcde"}),
        rounds={"count": 1, "accept": 4, "max_candidates": 60}, tracking={"wandb": "off"},
    )  # fmt: skip
    run = gra.synthesize(recipe, quiet=True)
    text = (run.path / "recipe.resolved.yaml").read_text()
    assert "accept: 4  # Python" in text
    assert "accept_mean: 8.0  # default" in text
    assert gra.synthesize(run.path / "recipe.resolved.yaml", quiet=True).rows() == run.rows()
