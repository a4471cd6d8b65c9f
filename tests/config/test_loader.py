"""Strict recipes: every mistake named with file, line and the likely key, all at once; `--show-config` loads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gra.config.experiment import ExperimentRecipe
from gra.config.loader import Loaded, find_file, load_recipe
from gra.config.section import Section
from gra.config.suite import SuiteConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError

GOOD = """\
name: demo
arm: gra
seeds: {source: seeds.jsonl}
committee:
  models:
    Alpha: model-a
    beta: {model: model-b, sampling: {temperature: 0.2}}
    gamma: model-c
    delta: model-d
    epsilon: model-e
  reviewers: 3
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def problems(path: Path, schema: type[Section] = SynthesisRecipe, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, schema, overrides)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_a_good_recipe_loads_with_the_papers_defaults(write) -> None:
    recipe = load_recipe(write(GOOD), SynthesisRecipe).recipe
    assert recipe.committee is not None
    assert list(recipe.committee.models) == ["Alpha", "beta", "gamma", "delta", "epsilon"]
    assert recipe.committee.models["Alpha"].model == "model-a"
    assert (recipe.review.accept_mean, recipe.review.dispute_std, recipe.dedup.threshold) == (8.0, 1.5, 0.9)
    assert (recipe.rounds.count, recipe.rounds.accept) == (5, 10_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "reveiw: {}\n", "line 12: unknown key `reveiw`; did you mean `review`?"),
        (GOOD + "rounds:\n  acept: 3\n", "line 13: unknown key `rounds.acept`; did you mean `accept`?"),
        (
            GOOD.replace("temperature: 0.2", "temperatur: 0.2"),
            "line 7: unknown key `committee.models.beta.sampling.temperatur`; did you mean `temperature`?",
        ),
        (
            GOOD.replace("Alpha: model-a", "Alpha: {model: model-a, sistem: x}"),
            "line 6: unknown key `committee.models.Alpha.sistem`; did you mean `system`?",
        ),
        (GOOD + "rounds: {count: '2'}\n", "line 12: `rounds.count` must be a whole number, not '2'"),
        (GOOD + "rounds: {count: 2.0}\n", "line 12: `rounds.count` must be a whole number, not 2.0"),
        (GOOD + "rounds: {count: true}\n", "line 12: `rounds.count` must be a whole number, not True"),
        (GOOD + "rounds: {count: 0}\n", "line 12: `rounds.count` must be at least 1, not 0"),
        (GOOD + "domains: coding\n", "line 12: `domains` must be a list, not 'coding'"),
        (GOOD + "domains: [coding, 3]\n", "line 12: `domains.1` must be text (put quotes around it), not 3"),
        (GOOD + "rounds: 3\n", "line 12: `rounds` must be a section with keys of its own, not 3"),
        (GOOD.replace("name: demo\n", ""), "line 1: `name` is required and is not given"),
        (GOOD + "name: again\n", "line 12: the key `name` is given twice (first on line 1)"),
        (GOOD + "arm: vanila\n", "line 12: the key `arm` is given twice (first on line 2)"),
        ("name: x\narm: gra\nseeds: {source: s}\n", "line 1: `arm: gra` needs a `committee`"),
        (GOOD.replace("reviewers: 3", "reviewers: 9"), "line 4: `committee` asks for 9 reviewers but only 5 members"),
    ],
)
def test_one_mistake_is_one_sentence_with_its_line(write, text: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(write(text))), problems(write(text))


def test_a_bad_choice_names_the_choices_and_the_likely_one(write) -> None:
    (problem,) = problems(write(GOOD.replace("arm: gra", "arm: vanila")))
    assert problem.startswith("line 2: `arm` must be one of")
    assert "'distilled'" in problem
    assert problem.endswith("not 'vanila'; did you mean `vanilla`?")


def test_all_problems_are_reported_at_once(write) -> None:
    text = GOOD.replace("name: demo", "nmae: demo") + "rounds: {count: x}\nreview: {std: both}\nseeds: {source: s}\n"
    found = problems(write(text))
    assert len(found) == 5
    for piece in ("`nmae`", "`name` is required", "`rounds.count`", "`review.std`", "`seeds` is given twice"):
        assert any(piece in problem for problem in found)


def test_yaml_1_2_scalars(write) -> None:
    class Probe(Section):
        texts: list[str]
        floats: list[float]
        flags: list[bool]
        whole: int

    text = "texts: [on, off, yes, no, y, 1:30, 010, 2020-01-01]\nfloats: [5e-6, 1E3, -2.5e-1, .5]\n"
    recipe = load_recipe(write(text + "flags: [true, False]\nwhole: 10_000\n"), Probe).recipe
    assert recipe.texts == ["on", "off", "yes", "no", "y", "1:30", "010", "2020-01-01"]
    assert recipe.floats == [5e-6, 1000.0, -0.25, 0.5]
    assert recipe.flags == [True, False]
    assert recipe.whole == 10_000


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_are_finite(write, value: str) -> None:
    text = GOOD.replace("temperature: 0.2", f"temperature: {value}")
    assert "`committee.models.beta.sampling.temperature`" in problems(write(text))[0]


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("a: [1\nb: 2\n", "not valid YAML"),
        ("a:\n\t- 1\n", "not valid YAML"),
        ("", "a recipe is a mapping"),
        ("- 1\n", "a recipe is a mapping"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: &a [*a]\n", "nested too deeply"),
        (f"a: {'[' * 3000}\n", "nested too deeply"),
        (
            "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(9)),
            "100,000 values",
        ),
        ("arms: {a: b}\n", "this is an experiment, for `gra run`; wanted here is a synthesis recipe"),
        ("name: a\nmodel: b\n", "this is a training recipe, for `gra train`"),
    ],
)
def test_files_that_are_not_recipes(write, text: str, piece: str) -> None:
    (problem,) = problems(write(text))
    assert piece in problem


def test_a_recipe_is_utf_8(write) -> None:
    path = write(GOOD)
    path.write_bytes(path.read_bytes() + b"# caf\xe9\n")
    (problem,) = problems(path)
    assert problem == "line 12: this is not UTF-8 text; save the file as UTF-8"


def test_a_key_is_a_word(write) -> None:
    assert "line 12: a key must be a word, not a list or a mapping" in problems(write(GOOD + "[a, b]: 1\n"))


@pytest.mark.parametrize("name", ["../up", "/tmp/x", ".", "", "a/b", "a b", "[red]"])
def test_a_name_is_that_of_a_folder(write, name: str) -> None:
    (problem,) = problems(write(GOOD), overrides=(f"name='{name}'" if name[:1] != '"' else f"name={name}",))
    assert "`name` must be a folder's name" in problem


def test_domains_are_not_empty(write) -> None:
    (problem,) = problems(write(GOOD), overrides=("domains=[]",))
    assert problem.endswith("`domains` must have at least 1, has 0")
    (problem,) = problems(write(GOOD), overrides=("domains=[qa, qa]",))
    assert problem.endswith("`domains` has `qa` twice; name each domain once")
    (problem,) = problems(write(GOOD), overrides=("domains=['', qa]",))
    assert problem.endswith("`domains` has a domain without a name; leave it out")


def test_a_missing_recipe_file_suggests_its_neighbour(write) -> None:
    path = write(GOOD, "paper-alpaca.yaml")
    with pytest.raises(RecipeError, match=r"no such recipe file; did you mean `paper-alpaca\.yaml`"):
        load_recipe(path.with_name("paper_alpaca.yaml"), SynthesisRecipe)


def test_extends_merges_one_level(write) -> None:
    write(GOOD, "base.yaml")
    child = write("extends: base.yaml\nname: child\ncommittee: {models: {beta: other}}\n")
    loaded = load_recipe(child, SynthesisRecipe)
    assert loaded.recipe.name == "child"
    assert loaded.recipe.committee is not None
    assert loaded.recipe.committee.models["beta"].model == "other"
    assert loaded.recipe.committee.models["Alpha"].model == "model-a"
    assert loaded.origins[("name",)].endswith("recipe.yaml:2")
    assert loaded.origins[("seeds", "source")].endswith("base.yaml:3")


def test_a_mistake_in_the_extended_file_names_that_file(write) -> None:
    base = write(GOOD + "rounds: {cuont: 2}\nname: twice\n", "base.yaml")
    found = problems(write("extends: base.yaml\nreveiw: {}\n"))
    assert f"{base}: line 13: the key `name` is given twice (first on line 1)" in found
    assert any(p.startswith(f"{base}:12: unknown key `rounds.cuont`") for p in found)
    assert any(p.startswith("line 2: unknown key `reveiw`") for p in found)


@pytest.mark.parametrize(
    ("child", "piece"),
    [
        ("extends: nowhere.yaml\n", "line 1: `extends: nowhere.yaml` names a file that is not there"),
        ("extends: [a, b]\n", "line 1: `extends` takes the path of one recipe"),
        ("name: x\nextends: middle.yaml\n", "line 2: "),
    ],
)
def test_extends_that_cannot_work(write, child: str, piece: str) -> None:
    write("extends: base.yaml\n", "middle.yaml")
    assert piece in problems(write(child))[0]


def test_overrides_are_typed_like_the_file(write) -> None:
    path = write(GOOD)
    loaded = load_recipe(path, SynthesisRecipe, ["rounds.accept=20", "review.std=sample", "budget.tokens=null"])
    assert loaded.recipe.rounds.accept == 20
    assert loaded.recipe.review.std == "sample"
    assert loaded.origins[("rounds", "accept")] == "command line (rounds.accept)"
    assert problems(path, overrides=("rounds.accept=many",)) == [
        "command line (rounds.accept): `rounds.accept` must be a whole number"
    ]
    (problem,) = problems(path, overrides=("rounds.acept=3",))
    assert "did you mean `accept`" in problem
    assert problem.startswith("command line (rounds.acept)")


NO_OVERRIDES = ["rounds", "=3", "a..b=1", "name.sub=1", "name={a", "extends=base.yaml", "name=&a [*a]", "seed=!!int x",
                "seed=!!nope x", "seeds={source: a, source: b}"]  # fmt: skip


@pytest.mark.parametrize("text", NO_OVERRIDES)
def test_overrides_that_are_not(write, text: str) -> None:
    (problem,) = problems(write(GOOD), overrides=(text,))
    assert problem.startswith("command line")


def test_an_override_finds_keys_that_have_dots(write) -> None:
    path = write(GOOD.replace("beta:", "beta-0.5b:"))
    override = "committee.models.beta-0.5b.sampling.temperature=0.9"
    loaded = load_recipe(path, SynthesisRecipe, [override])
    members = loaded.recipe.committee.models
    assert list(members) == ["Alpha", "beta-0.5b", "gamma", "delta", "epsilon"]
    assert (members["beta-0.5b"].model, members["beta-0.5b"].sampling.temperature) == ("model-b", 0.9)
    assert (
        loaded.origins[("committee", "models", "beta-0.5b", "sampling", "temperature")]
        == f"command line ({override.partition('=')[0]})"
    )


def test_a_mapping_on_the_command_line_replaces_and_owns_all_of_its_values(write) -> None:
    path = write(GOOD + "rounds:\n  count: 2\n  accept: 7\n")
    loaded = load_recipe(path, SynthesisRecipe, ["rounds={count: 3}"])
    assert (loaded.recipe.rounds.count, loaded.recipe.rounds.accept) == (3, 10_000)
    shown = loaded.show()
    assert "  count: 3  # command line (rounds)" in shown
    assert "  accept: 10000  # default" in shown


def test_show_names_every_origin(write) -> None:
    path = write(GOOD)
    shown = load_recipe(path, SynthesisRecipe, ["seed=5"]).show().splitlines()
    assert f"name: demo  # {path}:1" in shown
    assert "seed: 5  # command line (seed)" in shown
    assert "  accept_mean: 8.0  # default" in shown
    assert f"        temperature: 0.2  # {path}:7" in shown


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
awkward = words | st.sampled_from(
    ["1e5", "5e-6", "on", "010", "1:30", "null", "~", "a: b", "# c", "-", "x...", "'", '"', "a\nb", " a "]
)
scalars = awkward | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(awkward, inner, max_size=3))


class Anything(Section):
    name: str
    text: str | None
    number: float
    values: dict[str, Any]


@given(name=awkward, text=st.none() | awkward, number=st.floats(allow_nan=False, allow_infinity=False), values=nested)
def test_what_show_config_prints_loads_to_the_same_recipe(tmp_path_factory, name, text, number, values) -> None:
    recipe = Anything(name=name, text=text, number=number, values={"inner": values})
    shown = tmp_path_factory.mktemp("shown") / "recipe.yaml"
    shown.write_text(Loaded(recipe, shown, {}).show(), encoding="utf-8", newline="")
    assert load_recipe(shown, Anything).recipe == recipe
    yaml.safe_load(shown.read_text(encoding="utf-8"))  # other readers can read it too


def test_show_of_a_whole_recipe_loads_to_the_same_recipe(write) -> None:
    text = GOOD.replace("model: model-b", 'model: "1e5", system: "Be brief.\\n\\nBe: kind # always"')
    first = load_recipe(write(text), SynthesisRecipe, ["rounds.count=2"])
    again = load_recipe(write(first.show(), "shown.yaml"), SynthesisRecipe)
    assert again.recipe == first.recipe


def test_lists_of_sections_and_experiments(write) -> None:
    suite = "name: s\ntasks:\n  - {name: a, kind: instructions, data: d}\n"
    suite += "  - {name: b, kind: value, data: d, prompt: qestion}\n"
    (problem,) = problems(write(suite), SuiteConfig)
    assert problem.startswith("line 4: `tasks.1.prompt` must be one of")
    assert "did you mean `question`" in problem
    (problem,) = problems(write("name: e\narms: {GRA: a}\nstudent: s\nsuite: t\nbaseline: gra\n"), ExperimentRecipe)
    assert problem == "line 1: `baseline: gra` is not one of the arms (GRA)"


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        ("arms={untuned: a}", "an arm cannot be called `untuned`"),
        ("arms={../x: a}", "must be a folder's name"),
        ("training_seeds=[1, 1]", "`training_seeds` has a seed twice"),
        ("training_seeds=[-1]", "`training_seeds.0` must be at least 0"),
    ],
)
def test_experiments_that_cannot_work(write, change: str, piece: str) -> None:
    path = write("name: e\narms: {a: b}\nstudent: s\nsuite: t\nbaseline: a\n")
    overrides = (change, "baseline=untuned") if "untuned" in change else (change,)
    assert any(piece in problem for problem in problems(path, ExperimentRecipe, overrides))


def test_files_are_found_in_the_working_directory_then_beside_the_recipe(tmp_path, monkeypatch) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    recipe = tmp_path / "beside" / "recipe.yaml"
    (tmp_path / "beside" / "seeds.jsonl").touch()
    assert find_file("seeds.jsonl", recipe) == tmp_path / "beside" / "seeds.jsonl"
    (tmp_path / "cwd" / "seeds.jsonl").touch()
    assert find_file("seeds.jsonl", recipe) == tmp_path / "cwd" / "seeds.jsonl"
    with pytest.raises(RecipeError, match=r"`seds\.jsonl` is not there .*did you mean `seeds\.jsonl`"):
        find_file("seds.jsonl", recipe)
