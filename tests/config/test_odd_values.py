"""Odd tags, characters, addresses and secrets in recipes: each is one sentence, and a secret is never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError, user_path
from gra.core.processes.secrets import shown_name
from gra.models.catalog import resolve

GOOD = """\
name: demo
arm: gra
seeds: {source: seeds.jsonl}
committee: {models: {Alpha: model-a}, reviewers: 1}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def problems(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, SynthesisRecipe, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize(
    ("value", "piece"),
    [
        ("!!bool maybe", "is not true or false"),
        ("!!int maybe", "is not a whole number"),
        ("!!float maybe", "is not a number"),
        ("!!null maybe", None),
        ("!!timestamp maybe", "the tag `!!timestamp` is not used here; leave it out"),
        ("!!timestamp 2020-01-01", "the tag `!!timestamp` is not used here"),
        ("!!binary aGk=", "the tag `!!binary` is not used here"),
        ("!!set {a, b}", "the tag `!!set` is not used here"),
        ("!!omap [a: 1]", "the tag `!!omap` is not used here"),
        ("!!python/object/apply:os.system [id]", "the tag `!!python/object/apply:os.system` is not used here"),
        ("!mine x", "the tag `!mine` is not used here"),
        ('"a\\0b"', "has a NUL character"),
        ('"half \\ud83d"', "has half a surrogate pair"),
        ('{"\\ud83d": 1}', "has half a surrogate pair"),
        ("!!int " + "9" * 5000, "is not a whole number"),
    ],
)
def test_odd_values_are_named_in_files_and_overrides(write, value: str, piece: str | None) -> None:
    in_file = problems(write(GOOD + f"seed: {value}\n"))
    in_override = problems(write(GOOD), overrides=(f"seed={value}",))
    for found in (in_file, in_override):
        assert any(piece in problem for problem in found) if piece else found


@pytest.mark.parametrize("odd", ["name=\ud83d", "\ud83d=x", "na\0me=x", "name=a\0b"])
def test_odd_characters_of_the_command_line_are_refused(write, odd: str) -> None:
    assert problems(write(GOOD), overrides=(odd,))


@pytest.mark.parametrize(
    "override",
    [
        "engine.api_key=s3cr3t",
        "engine.api_key_env=sk-abcdef123456",
        "sk-abcdef123456",
        "sk-abcdef123456=1",
        "seed=hf_abcdefgh1234567",
        "engine={kind: openai, token: hf_abcdefgh1234567}",
        "committee.models.Alpha.model=[sk-abcdef123456]",
        "seed=0123456789abcdef0123456789abcdef",
        "engine.password=[",
    ],
)
def test_secret_of_an_override_is_not_repeated(write, override: str) -> None:
    found = "\n".join(problems(write(GOOD), overrides=(override,)))
    assert found
    for secret in ("s3cr3t", "abcdef", "abcdefgh", "password=["):
        assert secret not in found


def test_key_of_an_override_is_shown_unless_it_is_a_secret() -> None:
    assert shown_name("engine.api_key_env") == "engine.api_key_env"
    assert shown_name("sk-abcdef123456") == "(hidden)"


@pytest.mark.parametrize(
    "address",
    [
        "http://a..b",
        "http://[::1",
        "http://a:port",
        "http://a:99999",
        "http://",
        "http://a b",
        "http://" + "a" * 64,
        "x",
    ],
)
def test_address_that_is_none_is_named(write, address: str) -> None:
    found = problems(write(GOOD), overrides=(f"engine={{kind: openai, base_url: '{address}'}}",))
    assert any("must be a whole address" in problem for problem in found)


def test_home_of_an_unknown_user_is_named(write) -> None:
    for use in (lambda: user_path("~nosuchuser/x", "`ledger`"), lambda: resolve("~nosuchuser/model")):
        with pytest.raises(RecipeError, match="names the home of an unknown user"):
            use()
    with pytest.raises(RecipeError, match="home of an unknown user"):
        load_recipe(write("extends: ~nosuchuser/base.yaml\n"), SynthesisRecipe)
    with pytest.raises(RecipeError, match="no path can have"):
        user_path("a\0b", "`ledger`")


def test_numbers_that_no_machine_has_are_refused(write) -> None:
    for override in ("engine.concurrency=1000000000000000000", "engine.max_attempts=1000000000000000000"):
        assert any("must be at most" in problem for problem in problems(write(GOOD), overrides=(override,)))
