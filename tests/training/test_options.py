"""Broken training recipes: each is refused for the right reason, at the right line, and all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gra.core.errors import RecipeError

CASES = yaml.safe_load((Path(__file__).parent / "broken_recipes.yaml").read_text(encoding="utf-8"))
GOOD = "name: x\nmodel: {name: m}\n"


def problems(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    from gra.training.options.trl_config import load_train_recipe

    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_train_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def text_of(case: dict[str, Any]) -> str:
    return str(case.get("whole") or GOOD + case["put"] + "\n")


def name_of(case: dict[str, Any]) -> str:
    return " ".join((case.get("put") or case["whole"]).split())[:60]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_broken_recipe_is_refused_for_its_reason(tmp_path: Path, case: dict[str, Any]) -> None:
    expected = case["says"] if isinstance(case["says"], list) else [case["says"]]
    found = problems(tmp_path, text_of(case), tuple(case.get("command", ())))
    assert len(found) == len(expected), found
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)


def test_the_corpus_is_large_and_has_no_case_twice() -> None:
    texts = [(text_of(case), tuple(case.get("command", ()))) for case in CASES]
    assert len(set(texts)) == len(texts) >= 80


def test_all_problems_of_all_sections_are_reported_together(tmp_path: Path) -> None:
    """One recipe made of every one-line mistake about an option that stands in no other case."""
    lines: dict[str, str] = {}
    for case in CASES:
        put = case.get("put", "")
        if put.startswith("train: {") and put.count(":") == 2 and "command" not in case:
            key, _, value = put.removeprefix("train: {").removesuffix("}").partition(": ")
            lines.setdefault(key, value)
    alone = {key: value for key, value in lines.items() if key not in ("packing", "max_steps", "use_cpu")}
    text = GOOD + "lora: {r: 0}\nlearning_rte: 1\ntrain:\n" + "".join(f"  {k}: {v}\n" for k, v in alone.items())
    found = problems(tmp_path, text)
    assert len(alone) > 60
    for number, key in enumerate(alone, start=6):
        assert any(problem.startswith(f"line {number}: `train.{key}` ") for problem in found), key
    assert found[:2] == ["line 3: `lora.r` must be at least 1, not 0", "line 4: unknown key `learning_rte`; "
                         "did you mean `learning_rate`?"] or len(found) == len(alone) + 2  # fmt: skip


def test_a_recipe_that_extends_another_names_the_file_of_the_mistake(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("name: x\nmodel: {name: m}\ntrain:\n  learning_rat: 1e-5\n", encoding="utf-8")
    found = problems(tmp_path, "extends: base.yaml\ntrain:\n  sead: 1\n")
    assert sorted(problem.split(": ")[0] for problem in found) == [f"{base}:4", "line 3"]


@pytest.mark.parametrize("method", ["sft", "preference", "distill", "gold"])
def test_the_tables_of_names_agree_with_the_installed_trl(method: str) -> None:
    import dataclasses

    from gra.training.options import option_tables as options
    from gra.training.options.trl_config import _config_class
    from gra.training.plan import _WITHOUT_EFFECT

    config = _config_class("distill" if method == "gold" else method, method == "gold")
    fields = {field.name for field in dataclasses.fields(config)}
    if method == "sft":
        assert not set(options.RENAMED) & fields
        assert set(options.OURS) | set(options.DEFAULTS) | _WITHOUT_EFFECT <= fields
        # These two tables speak of all methods.
        every = set(fields).union(*({f.name for f in dataclasses.fields(_config_class(m, o))} for m, o in _METHODS))
        assert set(options.RANGES) <= every
        assert {key for key, _ in options.REFUSED} | options.SHARE_OR_COUNT | set(options.OURS_OF_DISTILL) <= every
    assert set(options.DEFAULTS) <= fields


_METHODS = [("preference", False), ("distill", False), ("distill", True), ("reward", False)]


def test_good_values_pass(tmp_path: Path) -> None:
    from gra.training.options.trl_config import check_arguments, load_train_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(
        GOOD + "data: {holdout: {fraction: 0.1}}\n"
        "train:\n  max_steps: -1\n  warmup_steps: 0.03\n  save_steps: 50\n  eval_strategy: steps\n  eval_steps: 10\n"
        "  optim: adafactor\n  lr_scheduler_type: cosine_with_min_lr\n  lr_scheduler_kwargs: {min_lr_rate: 0.1}\n"
        "  packing: true\n  max_length: 2048\n  pad_to_multiple_of: 8\n  model_init_kwargs: {use_kernels: true}\n",
        encoding="utf-8",
    )
    checked = check_arguments(load_train_recipe(path))
    assert (checked["warmup_steps"], checked["optim"], checked["logging_steps"]) == (0.03, "adafactor", 1)
