"""Whole syntheses with every model behind a server that fails in seven ways, and the recipes that ask for it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from scripted_run import answer_by_content, make_recipe, write_job
from unreliable_server import WAYS, UnreliableServer, moody, problem

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import EngineUnavailable, GraError, RecipeError
from gra.core.hashing import file_digest
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.types import DIMENSIONS, State
from gra.data.export import read_lineage
from gra.engines.broker import Broker
from gra.engines.types import Call, Completion, ModelId
from gra.evaluation.suite import suite_items
from gra.ledger.ledger import Ledger
from gra.serving import models as registry
from gra.synthesis.rounds import write_samples
from gra.synthesis.run import make_job, run_jobs

KEY = "sk-very-secret-0123456789"
COMMITTEE = tuple(f"model-{name}" for name in "abcde")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a failed call be tried again after hundredths of a second; how often it is tried does not change."""
    monkeypatch.setitem(Broker.__init__.__kwdefaults__, "backoff_s", 0.02)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"kind": "openai"}, "needs a `base_url`"),
        ({"kind": "openai", "base_url": "localhost:8000"}, "must be a whole address"),
        ({"kind": "openai", "base_url": f"http://me:{KEY}@host/v1"}, "must hold no user, password or query"),
        ({"kind": "openai", "base_url": f"http://host/v1?key={KEY}"}, "must hold no user, password or query"),
        ({"kind": "openai", "base_url": "http://host/v1", "api_key_env": KEY}, "must be the NAME of an environment"),
        ({"base_url": "http://host/v1"}, "`base_url` belongs to a server; add `kind: openai`"),
    ],
)
def test_recipe_error_says_what_is_wrong_and_repeats_no_key(engine, message, tmp_path: Path) -> None:
    write_job(tmp_path, make_recipe())
    recipe = json.loads((tmp_path / "recipe.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"engine": engine}))
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def synthesize(
    server: UnreliableServer, folder: Path, monkeypatch, changes: dict[str, Any] | None = None, **engine: Any
) -> dict[str, Any]:
    """The scripted arm through the real jobs, every model behind the server."""
    monkeypatch.setattr(write_samples, "Embedder", scripted_run.WordEmbedder)
    monkeypatch.setattr(write_samples, "resolve", scripted_run.fake_resolve)

    async def hosted() -> dict[str, Any]:
        async with server:
            recipe = make_recipe(
                engine={"kind": "openai", "base_url": server.base_url, "concurrency": 16} | engine,
                rounds={"count": 2, "accept": 30, "max_candidates": 30},
                **(changes or {}),
            )
            write_job(folder, recipe)
            job = make_job(
                load_recipe(folder / "recipe.yaml", SynthesisRecipe), RunFolder(folder), read_suite=suite_items
            )
            view = View(folder / "log.jsonl", quiet=True)
            return await asyncio.to_thread(run_jobs, [job], view, folder / "logs")

    return asyncio.run(hosted())


def test_a_third_of_all_requests_failing_in_seven_ways_loses_nothing_and_scores_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server = UnreliableServer(models=COMMITTEE, key=KEY, fails=moody(0.3))
    content = synthesize(server, tmp_path, monkeypatch, call_timeout_s=1.5, api_key_env="MY_KEY")["scripted"]
    assert set(server.failed) == set(WAYS)
    assert 0.25 < sum(server.failed.values()) / len(server.asked) < 0.35

    # Every candidate ends once, with a reason.
    rows = read_lineage(tmp_path / "lineage.parquet")
    names = [f"r{round_}-{index:06d}" for round_ in (1, 2) for index in range(30)]
    assert [row["candidate_id"] for row in rows] == names
    assert all(State(row["state"]) and row["reason"] for row in rows)
    assert sum(content["states"].values()) == 60
    assert content["states"]["accepted"] > 5

    # Nothing that was answered is lost: the ledger holds each good answer, and answers to the others as failures.
    ledger = Ledger(tmp_path / "ledger.sqlite", "scripted")
    recorded = {answer.key: answer for answer in ledger.answers()}
    faults = ledger.faults()
    ledger.close()
    texts = sorted(answer.text for answer in recorded.values())
    spoken = [way for way in WAYS if way in ("cut-off JSON", "prose", "wrong schema")]
    assert len(texts) + sum(faults.values()) == len(server.asked)
    # On a busy machine a reply may come after its time limit, which makes it a timeout, whatever it held.
    late = faults["timeout"] - server.failed["hang"]
    failed = {"busy": server.failed["429"], "error": server.failed["500"], "died": server.failed["reset"]}
    missed = sum(count - faults.get(kind, 0) for kind, count in failed.items())
    missed += len(server.given) + sum(server.failed[way] for way in spoken) - len(texts)
    assert late == missed
    assert (Counter(server.given) - Counter(texts)).total() <= late
    assert all(faults.get(kind, 0) <= count for kind, count in failed.items())

    # No score comes from a failure: a candidate with an unusable answer has a later attempt, or failed.
    good = set(server.given)
    scores = {tuple(float(json.loads(text)[name]) for name in DIMENSIONS) for text in good if '"correctness"' in text}
    for row in rows:
        unusable = sum(recorded[key].text not in good for key in row["calls"])
        assert row["state"] == State.FAILED.value or unusable <= sum(recorded[key].attempt > 0 for key in row["calls"])
        for review in row["reviews"]:
            assert tuple(review["values"][name] for name in DIMENSIONS) in scores
        assert (row["mean"] is not None) == (len(row["reviews"]) == 3)

    # The key is in no file.
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file


def test_running_again_against_a_sound_server_pays_for_nothing(tmp_path: Path, monkeypatch) -> None:
    first = UnreliableServer(models=COMMITTEE)
    before = synthesize(first, tmp_path, monkeypatch, served_as="the committee's server")
    (tmp_path / "manifest.json").unlink()
    again = UnreliableServer(models=COMMITTEE)  # at another address
    after = synthesize(again, tmp_path, monkeypatch, served_as="the committee's server")
    assert first.asked
    assert not again.asked
    assert before["scripted"]["states"] == after["scripted"]["states"]
    identity = before["scripted"]["models"]["model-a"]["identity"]
    assert identity == "openai:model-a@the committee's server"


def test_concurrency_is_no_part_of_what_a_dataset_is(tmp_path: Path, monkeypatch) -> None:
    first = synthesize(UnreliableServer(models=COMMITTEE), tmp_path, monkeypatch, served_as="x")
    again = UnreliableServer(models=COMMITTEE)
    second = synthesize(again, tmp_path, monkeypatch, served_as="x", concurrency=3)
    assert second["scripted"]["states"] == first["scripted"]["states"]
    assert not again.asked


def test_runs_that_share_a_ledger_pay_for_an_answer_once(tmp_path: Path, monkeypatch) -> None:
    found = {}
    for name in ("first", "second"):
        server = UnreliableServer(models=COMMITTEE)
        changes = {"name": name, "ledger": str(tmp_path / "cache" / "answers.sqlite")}
        found[name] = synthesize(server, tmp_path / name, monkeypatch, changes, served_as="x")[name]
        assert bool(server.asked) is (name == "first")
        assert not (tmp_path / name / "ledger.sqlite").exists()
    assert found["second"]["states"] == found["first"]["states"]
    assert found["first"]["tokens_by_role"]["generator"]["calls"] > 0
    assert found["second"]["tokens_by_role"] == {}
    used = {name: {(p["work"], p["role"], p["model"]): p["calls"] for p in found[name]["used"]} for name in found}
    assert used["second"].keys() == used["first"].keys()
    # The first may have paid for candidates beyond the end of a round.
    assert all(0 < calls <= used["first"][part] for part, calls in used["second"].items())
    keys = {key for row in read_lineage(tmp_path / "second" / "lineage.parquet") for key in row["calls"]}
    assert sum(used["second"].values()) >= len(keys) > 0
    lineages = [file_digest(tmp_path / name / "lineage.parquet") for name in found]
    assert lineages[0] == lineages[1]


def test_members_run_where_their_own_engine_says(tmp_path: Path) -> None:
    server = {"kind": "openai", "base_url": "http://host-a:8000/v1", "concurrency": 7}
    models = {n: {"model": f"model-{n}", "engine": server} for n in "abcd"}
    models |= {"e": {"model": "model-e", "engine": server | {"base_url": "http://host-e/v1/"}}}
    found = registry.find_models([make_recipe(committee={"models": models})], View(quiet=True))
    assert found.model_id("model-e") == ModelId("model-e", "openai:model-e@http://host-e/v1", "server")
    pool = found.pool(tmp_path)
    assert {engine.memory_gb for engine in pool.engines.values()} == {0.0}
    assert pool.swapper.together()
    assert pool.engines["model-a"].concurrency == 7
    twice = {**models, "f": {"model": "model-a", "engine": server | {"concurrency": 8}}}
    with pytest.raises(RecipeError, match=r"`model-a` is named with two different `engine`s"):
        registry.find_models([make_recipe(committee={"models": twice})], View(quiet=True))


def test_the_run_ends_with_one_sentence_when_the_server_is_gone(tmp_path: Path, monkeypatch) -> None:
    server = UnreliableServer(models=COMMITTEE, key="k")
    with pytest.raises((GraError, ExceptionGroup)) as caught:
        synthesize(server, tmp_path, monkeypatch)
    assert "API key was refused" in str(caught.value)


def test_run_whose_account_is_used_up_goes_on_after_paying_and_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    whole = synthesize(UnreliableServer(models=COMMITTEE), tmp_path / "whole", monkeypatch, served_as="x")
    poor = UnreliableServer(
        models=COMMITTEE,
        instead=lambda request, body: problem(402, "Pay the bill.") if len(poor.asked) > 100 else None,
    )
    with pytest.raises((GraError, ExceptionGroup)) as caught:
        synthesize(poor, tmp_path / "poor", monkeypatch, served_as="x")
    error = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EngineUnavailable)
    assert error.exit_code == 4
    assert "Pay the bill." in str(error)
    paid = UnreliableServer(models=COMMITTEE)
    content = synthesize(paid, tmp_path / "poor", monkeypatch, served_as="x")
    assert content["scripted"]["states"] == whole["scripted"]["states"]
    lineages = [file_digest(tmp_path / name / "lineage.parquet") for name in ("whole", "poor")]
    assert lineages[0] == lineages[1]


def test_server_that_repeats_the_key_puts_it_into_no_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    def repeat(call: Call) -> Completion:
        reply = answer_by_content(call)
        return replace(reply, text=reply.text.replace('": "', f'": "{KEY} ').replace(".", f" {KEY[3:20]}."))

    server = UnreliableServer(repeat, models=COMMITTEE, key=KEY)
    content = synthesize(server, tmp_path, monkeypatch, api_key_env="MY_KEY")["scripted"]
    assert content["states"]["accepted"]
    assert any(KEY in text for text in server.given)
    parts = [KEY[at : at + 8].encode() for at in range(len(KEY) - 7)]
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or not any(part in file.read_bytes() for part in parts), file
