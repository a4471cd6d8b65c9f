"""Run folders of release 0.1, one an arm, are read, checked, explained, resumed and reported by the present code.

`golden/runs-0.1.tar.gz` was written by release 0.1 on mock engines. It is never made again: it stands for the runs
that users have.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import scripted_run
import yaml
from synthesised import command

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError
from gra.core.types import Candidate
from gra.data.export import read_candidates
from gra.engines.types import Call
from gra.ledger.reader import LedgerReader
from gra.reports import figures
from gra.synthesis.rounds import write_samples

GOLDEN = Path(__file__).parent / "golden" / "runs-0.1.tar.gz"
ARMS = ["vanilla", "distilled", "distilled-samples", "refined", "gra", "integrated", "self_guide"]
DRAWN = {"gra", "vanilla"}  # runs with all figures there are, and with the fewest
MODES = {"seat": "score", "veto": "filter"}


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as archive:
        members = [member for member in archive.getmembers() if member.name.split("/")[0] == request.param]
        archive.extractall(tmp_path, members, filter="data")
    return tmp_path / str(request.param)


def rewrite_recipe(run: Path) -> None:
    """Write the recipe with the keys of the present release."""
    recipe: dict[str, Any] = json.loads((run / "recipe.yaml").read_text())
    recipe["best_of"] = recipe.pop("drafts")
    recipe["format_constraints"] = recipe.pop("forms")
    recipe["accept_licenses"] = recipe.pop("accept_licences")
    recipe["engine"]["offload"] = recipe["engine"].pop("park")
    recipe["dedup"]["minhash"] = recipe["dedup"].pop("likeness")
    review = recipe["review"]
    review["control_items"] = review.pop("probes")
    review["verifiers"] = [
        {**{key: value for key, value in program.items() if key != "takes"}, "mode": MODES[program["takes"]]}
        for program in review.pop("programs")
    ]
    (run / "recipe.yaml").write_text(json.dumps(recipe))


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, numbers up to rounding: a fit differs in its last digits from CPU to CPU."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


def lineage(run: Path) -> list[Candidate]:
    return read_candidates(run / "lineage.parquet")


@pytest.mark.parametrize("run", ARMS, indirect=True)
def test_old_run_is_read_and_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidates = lineage(run)
    states = json.loads((run / "manifest.json").read_text())["synthesis"]["states"]
    assert sum(states.values()) == len(candidates) > 0
    assert command("verify", str(run)) == 0
    assert command("ledger", "check", str(run)) == 0


@pytest.mark.parametrize("run", ARMS, indirect=True)
def test_old_run_is_explained_and_reported(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if run.name not in DRAWN:
        monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    candidate = lineage(run)[0]
    assert command("explain", str(run), candidate.id, "--full") == 0
    assert candidate.id in capsys.readouterr().out
    assert command("report", str(run)) == 0
    page = (run / "report" / "index.html").read_text()
    assert candidate.arm in page


@pytest.mark.parametrize("run", ARMS, indirect=True)
def test_old_run_resumes_without_one_new_call(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lineage(run)
    dataset = pq.read_table(run / "dataset" / "train.parquet").to_pylist()
    monkeypatch.setattr(write_samples, "Embedder", write_samples.Embedder)
    monkeypatch.setattr(write_samples, "resolve", write_samples.resolve)
    rewrite_recipe(run)

    known = {candidate.id for candidate in before}

    def refuse(call: Call) -> Any:
        # A candidate beyond the round's end may begin before the end is found; no file has it.
        if re.fullmatch(r"r\d+-\d{6}", call.candidate) and call.candidate not in known:
            return scripted_run.answer_by_content(call)
        raise AssertionError(f"asked again: {call.candidate} {call.role}")

    scripted_run.make(run, answer=refuse)
    after = lineage(run)
    assert alike([candidate.to_json() for candidate in after], [candidate.to_json() for candidate in before])
    assert alike(pq.read_table(run / "dataset" / "train.parquet").to_pylist(), dataset)
    assert command("verify", str(run)) == 0


@pytest.mark.parametrize("run", ["gra"], indirect=True)
def test_old_recipe_keys_name_the_new_ones(run: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(run / "recipe.yaml", SynthesisRecipe)
    problems = str(caught.value)
    for old, new in {
        "drafts": "`best_of`",
        "forms": "`format_constraints`",
        "accept_licences": "`accept_licenses`",
        "engine.park": "`offload`",
        "dedup.likeness": "`minhash`",
        "review.probes": "`control_items`",
        "review.programs": "`verifiers`",
    }.items():
        assert f"`{old}` has a new name: write {new}" in problems


@pytest.mark.parametrize("run", ["gra"], indirect=True)
def test_old_ledger_keeps_its_tables(run: Path) -> None:
    reader = LedgerReader(run / "ledger.sqlite")
    try:
        reader.check_usable()
        assert reader.verdicts("golden-gra")
    finally:
        reader.close()
    assert yaml.safe_load((run / "recipe.resolved.yaml").read_text())["drafts"] == 2
