"""Arms of equal rows, and arms that share the synthesis of another arm: its accepted or its unreviewed rows."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from paths import ROOT

from gra.core.errors import RecipeError
from gra.data.draw import Proportions, draw_rows, traits_of
from gra.experiment import load_experiment
from gra.experiment.plan import planned_rows
from gra.experiment.rows import ArmRows, describe_data


def written(folder: Path, arms: dict[str, Any]) -> Path:
    content = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())
    content["arms"] |= arms
    for name in ("student", "suite"):
        content[name] = str(ROOT / content[name])
    content["arms"] = {name: str(ROOT / arm) if isinstance(arm, str) else arm for name, arm in content["arms"].items()}
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": str(ROOT / "recipes/quickstart/gra.yaml"), "changes": changes}


def test_arm_may_change_keys_of_its_recipe(tmp_path: Path) -> None:
    arms = {name: changed({"rounds.parent_count": count}) for name, count in (("few", 2), ("many", 4))}
    plan = load_experiment(written(tmp_path, arms), [], tmp_path)
    assert [plan.arms[name].recipe.rounds.parent_count for name in ("few", "many", "gra")] == [2, 4, 2]
    assert plan.arms["many"].recipe.name == "quickstart-many"
    assert 'gra.yaml, name="quickstart-many", rounds.parent_count=4' in plan.describe()


def test_changed_section_is_merged_with_that_of_the_recipe(tmp_path: Path) -> None:
    changes = {"rounds": {"parent_count": 4}, "rounds.accept": 9, "seeds": {"source": "data/\U0001f600.jsonl"}}
    arms = load_experiment(written(tmp_path, {"x": changed(changes)}), [], tmp_path).arms
    recipe, plain = arms["x"].recipe, arms["gra"].recipe
    assert recipe.rounds == plain.rounds.model_copy(update={"parent_count": 4, "accept": 9})
    assert recipe.seeds.source == "data/\U0001f600.jsonl"


def test_derived_arm_has_students_and_the_other_arms_unreviewed_rows(tmp_path: Path) -> None:
    plan = load_experiment(written(tmp_path, {"unreviewed": {"of": "gra"}}), [], tmp_path)
    assert set(plan.arms) == {"vanilla", "distilled", "gra"}
    assert ("unreviewed-seed0", "unreviewed", 0) in plan.students()
    assert plan.dataset("unreviewed") == plan.folder / "arms" / "gra" / "dataset" / "unreviewed.parquet"
    assert plan.dataset("gra").name == "train.parquet"
    assert "arm unreviewed: unreviewed candidates of gra" in plan.describe()


def test_arms_train_on_the_rows_that_the_experiment_wants(tmp_path: Path) -> None:
    steps = load_experiment(ROOT / "recipes" / "quickstart.yaml", [], tmp_path).recipe.train["max_steps"]
    twice = {"of": "gra", "part": "train", "rows": 8}
    file = written(tmp_path, {"twice": twice, "unreviewed": {"of": "gra", "part": "unreviewed"}})
    plan = load_experiment(file, ["rows=4"], tmp_path)
    assert plan.dataset("twice") == plan.dataset("gra")
    assert plan.training_file("twice") == plan.folder / "rows" / "twice.parquet"
    described = plan.describe()
    assert "arm twice: rows of gra" in described
    assert "highest" not in described
    names = ("vanilla", "distilled", "gra", "unreviewed")
    shown = {f"optimizer steps of {arm}: {steps} for at most 4 rows" for arm in names}
    assert shown | {f"optimizer steps of twice: {steps} for at most 8 rows"} <= {*described.splitlines()}


def test_labeled_texts_of_the_store_are_no_rows(tmp_path: Path) -> None:
    plan = load_experiment(written(tmp_path, {"labels": "recipes/systems/annotate.yaml"}), [], tmp_path)
    assert planned_rows(plan)["labels"] == 20  # 40 seeds, half of them in the store


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"of": "gro"}, "`arms.x.of: gro` is not an arm with a recipe"),
        ({"of": "vanilla"}, "has no reviews"),
        ({"rows": 3}, "needs either `recipe`"),
        ({"of": "gra", "recipe": "gra.yaml"}, "needs either `recipe`"),
        ({"recipe": "gra.yaml", "part": "train"}, "only with `of`"),
        (changed({"best_of=2": 1}), "best_of=2"),
        ({"of": "gra", "changes": {"seed": 1}}, "has `changes` only with `recipe`"),
        (changed({"rounds.acept": 3}), r"`arms.x.changes` \(rounds.acept\): unknown key"),
        (changed({"seed": "one"}), r"`arms.x.changes` \(seed\): `seed` must be a whole number"),
        ({"recipe": str(ROOT / "recipes/quickstart/gra.yaml")}, r"written `\{of: ARM, part: train\}`"),
        (
            {"of": "gra", "part": "train", "rows": 99},
            r"99 rows, and .*gra.yaml makes at most \d; lower `arms.x.rows`",
        ),
        ({"of": "gra", "rows": 4, "draw": "best"}, "is for accepted rows; set `part: train`"),
        ({"of": "gra", "part": "train", "draw": "best"}, "takes some of the rows; set `rows`"),
        ({"of": "gra", "draw": "seeds"}, "`arms.x.draw: seeds` takes some of the rows; set `rows`"),
        ({"of": "vanilla", "part": "train", "rows": 2, "draw": "best"}, "needs scores, and vanilla has no reviews"),
    ],
)
def test_arm_that_cannot_be_had_is_refused(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    unlimited = ["rows=null"] if "set `rows`" in message else []
    with pytest.raises(RecipeError, match=message):
        load_experiment(written(tmp_path, {"x": arm}), unlimited, tmp_path).describe()


def test_the_study_has_arms_of_equal_rows_and_two_suites_that_share_no_item(tmp_path: Path) -> None:
    study, report = ROOT / "recipes" / "study.yaml", "report_suite=eval/suites/study_report.yaml"
    plan = load_experiment(study, [report], tmp_path)
    rows = {arm: plan.recipe.wanted_rows(arm) for arm in plan.recipe.arms}
    assert rows == {
        "vanilla": 32, "distilled": 32, "unreviewed": 32, "gra": 32, "unreviewed-small": 32, "gra-small": 32,
        "single": 32, "gra-twice": 64,
    }  # fmt: skip
    assert "suite of the reported figures: instructions, arc_challenge" in plan.describe()
    asked = [{(task.name, task.data) for task in suite.recipe.tasks} for suite in plan.suites()]
    assert not asked[0] & asked[1]
    files = (ROOT / "eval" / "tasks" / name for name in ("instructions.jsonl", "instructions_report.jsonl"))
    texts = [{json.loads(line)["instruction"] for line in file.read_text().splitlines()} for file in files]
    assert not texts[0] & texts[1]


def test_every_lever_differs_from_the_baseline_and_from_the_others(tmp_path: Path) -> None:
    plan = load_experiment(ROOT / "recipes" / "levers.yaml", [], tmp_path)
    made = [arm.recipe.model_dump(exclude={"name"}) for arm in plan.arms.values()]
    assert len(made) == 12
    assert all(one != other for one, other in combinations(made, 2))


def test_draws_are_nested_and_shared_by_datasets_with_the_same_prompts(tmp_path: Path) -> None:
    def dataset(name: str, answer: str, count: int) -> Path:
        rows = [{"prompt": [{"role": "user", "content": f"Ask {i}"}], "id": f"{answer}-{i}"} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return tmp_path / name

    def drawn(source: Path, count: int) -> tuple[tuple[int, int], list[int]]:
        found = draw_rows(source, tmp_path / "drawn.parquet", count)
        return found, [int(row["id"][2:]) for row in pq.read_table(tmp_path / "drawn.parquet").to_pylist()]

    one, other = dataset("one.parquet", "a", 20), dataset("other.parquet", "b", 20)
    counts, few = drawn(one, 6)
    assert counts == (6, 20)
    assert few == sorted(few) == drawn(other, 6)[1]
    assert set(few) < set(drawn(one, 12)[1])
    assert drawn(one, 30) == ((20, 20), list(range(20)))


def test_best_rows_have_the_highest_scores_of_as_many_of_each_domain(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Ask {i}", "domain": "math" if i % 3 else "qa", "score": None if i == 4 else float(i)}
        for i in range(30)
    ]
    source, target = tmp_path / "rows.parquet", tmp_path / "drawn.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    draw_rows(source, target, 12)
    even = Counter(row["domain"] for row in pq.read_table(target).to_pylist())
    assert draw_rows(source, target, 12, best=True) == (12, 30)
    best = pq.read_table(target).to_pylist()
    for domain, count in even.items():
        scores = [row["score"] for row in rows if row["domain"] == domain and row["score"] is not None]
        assert [row["score"] for row in best if row["domain"] == domain] == sorted(scores)[-count:]
    assert draw_rows(source, target, 30, best=True) == (30, 30)


def test_rows_like_the_seeds_have_their_domains_forms_and_lengths_as_far_as_there_are_such_rows(tmp_path: Path) -> None:
    def ask(i: int) -> dict[str, Any]:
        form = " Use at most 99 words." if i % 4 == 0 else ""
        prompt, answer = [{"content": f"Ask {i}.{form}"}], [{"content": "word " * (2 if i % 5 < 3 else 25)}]
        return {"prompt": prompt, "completion": answer, "domain": "math" if i % 3 else "qa", "id": str(i)}

    source, target = tmp_path / "rows.parquet", tmp_path / "drawn.parquet"
    pq.write_table(pa.Table.from_pylist([ask(i) for i in range(60)]), source)

    def drawn(count: int, like: Proportions) -> dict[str, Counter[Any]]:
        assert draw_rows(source, target, count, like=like) == (count, 60)
        rows = pq.read_table(target).to_pylist()
        assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), key=int)
        texts = [(r["domain"], r["prompt"][-1]["content"], r["completion"][-1]["content"]) for r in rows]
        found = [traits_of(*text, like.lengths) for text in texts]
        return {name: Counter(each[name] for each in found) for name in found[0]}

    short, long = "two words", "word " * 25
    seeds = [("qa", "Ask. Use at most 9 words.", short), ("math", "Ask.", short), ("qa", "Ask.", long)]
    like = Proportions.of(seeds)
    assert like.lengths == (2, 2)
    assert like.traits == {"domain": {"qa": 2, "math": 1}, "form": {True: 1, False: 2}, "length": {0: 2, 2: 1}}
    found = drawn(9, like)
    assert found["domain"] == {"qa": 6, "math": 3}
    assert found["form"] == {True: 3, False: 6}
    assert found["length"] == {0: 6, 2: 3}
    few = set(pq.read_table(target).column("id").to_pylist())
    assert drawn(9, like) == found
    assert set(pq.read_table(target).column("id").to_pylist()) == few
    # 9 rows are wholly like the one seed.
    one = Proportions.of([("qa", "Ask.", short)])
    assert drawn(9, one) == {"domain": {"qa": 9}, "form": {False: 9}, "length": {0: 9}}
    assert Proportions.of([("", "Ask.", short)]).traits.keys() == {"form", "length"}  # the domain is not known yet
    assert drawn(60, like)["domain"] == {"qa": 20, "math": 40}


def test_best_rows_cost_what_all_of_them_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = {"of": "gra", "part": "train", "rows": 8, "draw": "best"}
    plan = load_experiment(written(tmp_path, {"best": best, "some": best | {"draw": "even"}}), [], tmp_path)
    monkeypatch.setattr("gra.runs.costs.cost_of_rows", lambda folder, rows, *, reviewed: {"total": rows})
    found = {name: ArmRows(8, 8, 16) for name in ("best", "some")}
    data, notes = describe_data(plan, found)
    assert {name: (each["draw"], each["cost"]["total"]) for name, each in data.items()} == {
        "best": ("best", 16), "some": ("even", 8)
    }  # fmt: skip
    assert notes == []
    _, (note,) = describe_data(plan, {name: ArmRows(8, 8, 8) for name in found})
    assert note.startswith("`arms.best.draw: best` took all 8 rows")
