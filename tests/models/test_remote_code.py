"""Python code that comes with a model: it runs only at the commit that the catalog pins, with the user's word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from catalog_world import World, make_world, write_model

from gra.core.errors import GraError, ModelUnavailable, RecipeError
from gra.models import catalog, hub
from gra.models.catalog import resolve
from gra.models.chat import load_tokenizer
from gra.models.configuration import find_configuration
from gra.models.remote_code import brings_code, check_references

PINNED, OTHER = "1" * 40, "2" * 40
_MARK = "ran.txt"


def _with_code(folder: Path) -> Path:
    """Write a model whose configuration and tokenizer are Python files beside it; running them leaves a mark."""
    write_model(folder)
    (folder / "mine.py").write_text(f"from pathlib import Path\nPath({str(folder / _MARK)!r}).touch()\nclass A: ...\n")
    reference = {"AutoConfig": "mine.A", "AutoModelForCausalLM": "mine.A"}
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody-knows", "auto_map": reference}))
    tokenizer = {"tokenizer_class": "A", "auto_map": {"AutoTokenizer": ["mine.A", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = make_world(tmp_path, monkeypatch)
    coded = {"name": "coded", "hub_id": "org/Coded", "revision": PINNED, "remote_code": True, "family": "coded"}
    unpinned = coded | {"name": "unpinned", "hub_id": "org/Unpinned", "revision": None}
    terms = {"licence": "mit", "licence_url": "https://example.org/mit"}
    made.catalog["models"] += [coded | terms, unpinned | terms]  # type: ignore[operator]
    made.save()

    def snapshot(hub_id: str, revision: str | None) -> Path:
        commit = revision if revision == PINNED else OTHER
        return _with_code(tmp_path / "hub" / hub_id.replace("/", "--") / "snapshots" / commit)

    monkeypatch.setattr(hub, "local_snapshot", snapshot)
    return made


@pytest.mark.parametrize("name", ["org/Coded@refs/pr/7", f"org/Coded@{OTHER}", "unpinned"])
def test_code_of_another_commit_is_refused(world: World, name: str) -> None:
    assert not resolve(name).remote_code
    with pytest.raises(RecipeError, match="only at the commit that the catalog pins"):
        resolve(name, allow_remote_code=True)


def test_pinned_code_needs_the_word_of_the_user(world: World) -> None:
    assert not resolve("coded").remote_code
    assert resolve("coded", allow_remote_code=True).remote_code
    assert resolve(f"org/Coded@{PINNED}", allow_remote_code=True).remote_code


def test_local_folder_never_runs_code(world: World, tmp_path: Path) -> None:
    folder = _with_code(tmp_path / "mine" / "model")
    assert not resolve(str(folder)).remote_code
    with pytest.raises(RecipeError, match="brings Python code of its own"):
        resolve(str(folder), allow_remote_code=True)
    with pytest.raises(ModelUnavailable, match=r"`allow_remote_code: true`"):
        load_tokenizer(folder)
    assert not (folder / _MARK).exists()


def test_planning_runs_no_code(world: World, tmp_path: Path) -> None:
    known = find_configuration("coded")
    assert known.config is None
    assert known.folder is not None
    assert not list(tmp_path.rglob(_MARK))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"model_type": "llama", "auto_map": {"AutoConfig": "attacker/repo--module.Config"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": ["x.Y", "attacker/repo--module.Model"]}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "attacker/repo--module.Tokenizer"]}}),
        ("generation_config.json", {"custom_generate": "attacker/repo--generate.run"}),
        ("config.json", {"model_type": "llama", "attn_implementation": "attacker/kernel"}),
        ("config.json", {"vision_config": {"_attn_implementation": {"": "attacker/kernel@v1:function"}}}),
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.system"}]),
    ],
)
def test_code_of_another_repository_is_refused(world: World, tmp_path: Path, file: str, content: object) -> None:
    folder = write_model(tmp_path / "m" / "model")
    (folder / file).write_text(json.dumps(content))
    for use in (lambda: resolve(str(folder)), lambda: load_tokenizer(folder), lambda: check_references(folder)):
        with pytest.raises(GraError, match="is not a part of this model"):
            use()


def test_plain_model_brings_no_code(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    check_references(folder)
    assert not brings_code(folder)
    assert brings_code(_with_code(tmp_path / "n"))


@pytest.mark.parametrize("name", ["org/Far@../../etc", "org/Far@a/../b", "org/Far@.hidden", "org/Far@a//b"])
def test_revision_that_is_a_path_is_refused(world: World, name: str) -> None:
    with pytest.raises(RecipeError, match="there is no model"):
        catalog.resolve(name)
