"""Keys go only to hosts that the user named for them; a recipe alone decides nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

from gra.cli.main import main
from gra.config.committee import BackendConfig
from gra.config.keys import allow_keys, check_key
from gra.core.errors import RecipeError
from gra.core.processes.secrets import child_environment


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRA_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("GRA_ALLOW_KEYS", raising=False)
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "hosts.yaml"


def backend(variable: str | None, address: str) -> BackendConfig:
    return BackendConfig(kind="openai", base_url=address, api_key_env=variable)


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        (None, "http://anywhere.example/v1"),
        ("MY_KEY", "http://localhost:8000/v1"),
        ("MY_KEY", "http://127.0.0.1:8000/v1"),
        ("MY_KEY", "http://127.9.9.9/v1"),
        ("MY_KEY", "http://[::1]:8000/v1"),
        ("OPENAI_API_KEY", "https://api.openai.com/v1"),
        ("OPENAI_API_KEY", "https://API.OpenAI.com./v1"),
    ],
)
def test_known_pair_and_own_machine_are_allowed(variable: str | None, address: str) -> None:
    check_key(backend(variable, address))


@pytest.mark.parametrize(
    ("variable", "address", "pair"),
    [
        ("MY_KEY", "https://collector.example/v1", "MY_KEY=collector.example"),
        ("OPENAI_API_KEY", "http://api.openai.com/v1", "OPENAI_API_KEY=api.openai.com"),  # readable on the way
        ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1", "OPENAI_API_KEY=api.openai.com.evil.example"),
        ("OPENAI_API_KEY", "https://evil.example/api.openai.com", "OPENAI_API_KEY=evil.example"),
        ("MY_KEY", "http://localhost.evil.example:8000/v1", "MY_KEY=localhost.evil.example:8000"),
        ("MY_KEY", "http://10.0.0.1:8000/v1", "MY_KEY=10.0.0.1:8000"),
        ("HF_TOKEN", "http://localhost:8000/v1", "HF_TOKEN=localhost:8000"),
        ("HUGGING_FACE_HUB_TOKEN", "https://huggingface.co/v1", "HUGGING_FACE_HUB_TOKEN=huggingface.co"),
        ("AWS_SECRET_ACCESS_KEY", "https://x.example/v1", "AWS_SECRET_ACCESS_KEY=x.example"),
    ],
)
def test_other_pair_is_refused_with_the_line_to_add(config: Path, variable: str, address: str, pair: str) -> None:
    with pytest.raises(RecipeError) as refused:
        check_key(backend(variable, address))
    name, _, host = pair.partition("=")
    assert f"`{name}: [{host}]` to {config}" in str(refused.value)
    assert str(refused.value).endswith(f"--allow-key {pair}")
    config.write_text(f"{name}: [{host}]\n")
    check_key(backend(variable, address))


def test_pairs_of_file_environment_and_flag_are_taken(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("ONE_KEY: one.example\nTWO_KEY: [two.example, 'two.example:8443']\n")
    check_key(backend("ONE_KEY", "https://one.example/v1"))
    check_key(backend("TWO_KEY", "https://two.example:8443/v1"))
    monkeypatch.setenv("GRA_ALLOW_KEYS", "THREE_KEY=three.example, FOUR_KEY=four.example:81")
    check_key(backend("THREE_KEY", "https://three.example:99/v1"))
    check_key(backend("FOUR_KEY", "http://four.example:81/v1"))
    with pytest.raises(RecipeError):
        check_key(backend("FOUR_KEY", "http://four.example:82/v1"))

    def inside() -> None:
        allow_keys(["FIVE_KEY=five.example"])
        check_key(backend("FIVE_KEY", "https://five.example/v1"))

    copy_context().run(inside)
    with pytest.raises(RecipeError):
        check_key(backend("FIVE_KEY", "https://five.example/v1"))


@pytest.mark.parametrize("text", ["", "x", "NAME", "NAME=", "=host", "sk-123=host", "NAME=a b", "NAME=http://a@b"])
def test_flag_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="takes the name of a variable and a host"):
        allow_keys([text])


@pytest.mark.parametrize("content", ["[1]", "a: {b: c}", "A_KEY: [[1]]", "[", "a: &a [*a]", "\x00", "lower: host"])
def test_damaged_file_is_named(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(RecipeError, match=r"hosts\.yaml"):
        check_key(backend("MY_KEY", "https://x.example/v1"))


def test_children_get_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "WANDB_API_KEY"]
    plain = ["GRA_CACHE", "MONKEYS", "KEYBOARD", "HF_HOME", "TOKENIZERS_PARALLELISM"]
    for name in secrets + plain:
        monkeypatch.setenv(name, "value")
    command = [sys.executable, "-c", "import os; print(*os.environ)"]
    seen = subprocess.run(command, env=child_environment("HF_TOKEN", MORE="1"), capture_output=True, text=True).stdout
    assert {*plain, "HF_TOKEN", "MORE", "PATH"} <= set(seen.split())
    assert set(secrets) & set(seen.split()) == {"HF_TOKEN"}


RECIPE = """\
name: demo
arm: gra
seeds: {source: seeds.jsonl}
engine: {kind: openai, base_url: "https://collector.example/v1", api_key_env: HF_TOKEN}
committee: {models: {Alpha: model-a}, reviewers: 0}
rounds: {accept: 1, max_candidates: 2, count: 1}
domains: [qa]
"""
SEED = {"domain": "qa", "instruction": "Ask.", "response": "Say."}
SEEDS = "".join(json.dumps(SEED | {"id": f"s{n}", "instruction": f"Ask {n}."}) + "\n" for n in range(4))


def test_command_line_refuses_a_recipe_that_sends_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "seeds.jsonl").write_text(SEEDS)
    monkeypatch.chdir(tmp_path)
    command = ["synthesize", "recipe.yaml", "--dry-run"]

    def run(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            copy_context().run(main, [*command, *more])
        return int(ended.value.code or 0), capsys.readouterr().err

    code, said = run()
    assert code == 2
    assert "the recipe sends the key in HF_TOKEN to collector.example" in said
    assert run("--allow-key", "HF_TOKEN=collector.example")[0] == 0
    assert run("--allow-key", "HF_TOKEN=another.example")[0] == 2
    assert run("--allow-key", "nonsense")[0] == 2
