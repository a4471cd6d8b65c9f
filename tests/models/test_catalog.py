"""The model catalog: names, the order of the sources, licences, and what a directory says about itself."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from catalog_world import PARTS, World, cache, make_world, model_files, safetensors, write_model

from gra.cli.main import main
from gra.core.errors import ModelUnavailable, RecipeError
from gra.models import catalog, entries, hub, packages
from gra.models.catalog import cached, is_downloaded, resolve
from gra.models.chat import context_length, has_chat_template, template_digest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


# ---- what works -------------------------------------------------------------------------------------


def test_packages_then_cache(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    first = resolve("tiny", progress=lines.append)
    assert first.origin == "packages"
    assert first.path == cache(tmp_path) / "models" / "tiny"
    assert (first.family, first.licence, first.is_base, first.parameters) == ("tiny", "mit", False, 3)
    assert first.identity.startswith("sha256:")
    assert any("downloading" in line for line in lines)
    assert not list((cache(tmp_path) / "downloads").iterdir())
    assert [p.name for p in first.path.iterdir() if p.suffix == ".gguf"] == []
    asked = len(world.asked)
    second = resolve("catalog:tiny")
    assert (second.origin, second.identity) == ("cache", first.identity)
    assert resolve("org/Tiny").identity == first.identity
    assert len(world.asked) == asked == 3
    assert cached("tiny")
    assert not cached("far")


def test_the_parts_are_joined_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def convert(source: Path, target: Path, settings: object) -> None:
        seen.append(source.read_bytes())
        write_model(target)

    monkeypatch.setattr(packages, "convert_in_child", convert)
    resolve("tiny")
    assert seen == [b"".join(PARTS)]


def test_second_package_when_the_first_is_gone(world: World, tmp_path: Path) -> None:
    (world.index / "pair_1-1.0-py3-none-any.whl").unlink()
    found = resolve("pair")
    assert found.source_note == "folder 2"
    assert found.parameters == 3  # the whole-number tensor is not counted
    seal = json.loads((found.path / packages.SEAL).read_text())
    assert seal["packages"] == ["pair-2==1.0"]
    assert set(seal["files"]) == set(model_files())


def test_local_path_comes_first(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "here" / "tiny")
    (folder / "README.md").write_text("---\nlicense: bsd\n---\n# Tiny\n")
    monkeypatch.chdir(folder.parent)
    found = resolve("tiny")
    assert (found.origin, found.path, found.licence, found.family) == ("local", folder, "bsd", "tiny")
    assert found.is_base
    assert world.asked == []
    before = found.identity
    (folder / "model.safetensors").write_bytes(safetensors([1.0, 2.0, 4.0]))
    assert resolve(str(folder)).identity != before


def test_identity_depends_on_configuration_not_on_the_library_version(world: World, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    first = resolve(str(folder)).identity
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}))
    assert resolve(str(folder)).identity == first
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5}))
    assert resolve(str(folder)).identity != first


def test_hub_before_packages(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    monkeypatch.setattr(catalog, "hub_reachable", lambda: True)
    monkeypatch.setattr(
        hub, "download", lambda hub_id, revision, say, code: write_model(tmp_path / "snapshots" / commit)
    )
    found = resolve("tiny")
    assert (found.origin, found.identity) == ("hub", f"hub:org/Tiny@{commit}")
    assert world.asked == []
    other = resolve("someone/else@v2")
    assert (other.identity, other.family, other.licence) == (f"hub:someone/else@{commit}", "tiny", "unknown")


def test_packages_when_the_hub_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(hub_id: str, revision: str | None, say: object, *, code: bool) -> Path:
        raise ModelUnavailable("org/Tiny is gated")

    monkeypatch.setattr(catalog, "hub_reachable", lambda: True)
    monkeypatch.setattr(hub, "download", broken)
    lines: list[str] = []
    assert resolve("tiny", progress=lines.append).origin == "packages"
    assert "! org/Tiny is gated" in lines


def test_a_particular_revision_is_never_taken_from_packages(world: World) -> None:
    with pytest.raises(ModelUnavailable, match="no package of the index carries it and the hub cannot be reached"):
        resolve(f"org/Tiny@{'b' * 40}")


# ---- what is wrong with the request -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tinny", "catalog:tinny"])
def test_unknown_name(world: World, name: str) -> None:
    with pytest.raises(RecipeError, match="did you mean `tiny`"):
        resolve(name)


def test_paths_that_are_no_model(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no model directory"):
        resolve("./nothing-here")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="LoRA adapter"):
        resolve(str(adapter))
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"mine/empty is not a complete model directory: config\.json is missing"):
        resolve("mine/empty")
    folder = write_model(tmp_path / "m")
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match=r"model-00001-of-00002\.safetensors is missing"):
        resolve(str(folder))


# What is done to a whole model, and what is said of it.
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut off": ("model.safetensors", lambda c: c[:-5], r"has 156 bytes, by its own header it should have 161; copy"),
    "too long": ("model.safetensors", lambda c: c + b"more", r"has 165 bytes, by its own header it should have 161"),
    "cut in the header": ("model.safetensors", lambda c: c[:40], "has 40 bytes and does not begin as a safetensors"),
    "a pointer to it": ("model.safetensors", lambda c: b"version https://git-lfs\nsize 9\n", "does not begin as"),
    "empty": ("model.safetensors", lambda c: b"", "has 0 bytes and does not begin as"),
    "another header": ("model.safetensors", lambda c: struct.pack("<Q", 9) + b'{"w": []}', "does not begin as"),
    "a part without the others": ("model-00001-of-00002.safetensors", lambda c: safetensors([1.0]), "index.json is mi"),
    "half a configuration": ("config.json", lambda c: c[:-5], "config.json cannot be read"),
    "no configuration": ("config.json", lambda c: b"[]", "config.json is not what a model has under this name"),
    "no index": ("model.safetensors.index.json", lambda c: b"{}", "index.json is not what a model has"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_is_told_by_sizes_and_headers(world: World, tmp_path: Path, kind: str) -> None:
    name, change, sentence = DAMAGE[kind]
    file = write_model(tmp_path / "m") / name
    file.write_bytes(change(file.read_bytes() if file.is_file() else b""))
    for ask in (resolve, is_downloaded, cached):  # the dry run asks whether it is here
        with pytest.raises(RecipeError, match=sentence):
            ask(str(tmp_path / "m"))


def test_a_name_that_no_model_can_have(world: World) -> None:
    with pytest.raises(RecipeError, match="there is no model `org/a--b`, and the hub can have none"):
        cached("org/a--b")


def test_a_damaged_download_is_missing_from_the_list_and_an_error_in_a_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "models--org--Far" / "snapshots" / "c0ffee")
    monkeypatch.setattr(hub, "local_snapshot", lambda hub_id, revision: folder)
    assert is_downloaded("far")
    (folder / "model.safetensors").write_bytes(model_files()["model.safetensors"][:-1])
    assert not cached("far")
    for ask in (resolve, is_downloaded):
        with pytest.raises(ModelUnavailable, match=r"it should have 161; delete .*models--org--Far and run again"):
            ask("far")


def test_the_list_of_models_fits_a_narrow_terminal(world: World, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit) as end:
        main(["models"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "tiny\n  org/Tiny\n  from packages, mit\n" in shown
    assert "terms\n  org/Terms\n  from packages, strict\n" in shown
    assert "far\n  org/Far\n  mit\n" in shown


def test_licence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"`strict` license \(https://example.org/mit\)"):
        resolve("terms")
    assert world.asked == []
    assert resolve("terms", accept_licenses=["strict"]).licence == "strict"
    with pytest.raises(RecipeError):  # what a recipe accepts is accepted for that recipe
        resolve("terms")
    monkeypatch.setenv("GRA_ACCEPT_LICENCES", "other, strict")
    assert resolve("terms").origin == "cache"


def test_licence_asked_once(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["\n", "yes\n"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: next(answers), raising=False)
    with pytest.raises(RecipeError):
        resolve("terms")
    assert resolve("terms").origin == "packages"
    assert resolve("terms").origin == "cache"  # a third question would exhaust the answers
    assert "https://example.org/mit" in capsys.readouterr().err


def test_hub_only_offline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelUnavailable, match="far cannot be had, no package of the index carries it and the hub cannot be reached"
    ):
        resolve("far")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
        resolve("far")
    with pytest.raises(ModelUnavailable, match="downloads are switched off"):
        resolve("tiny", offline=True)
    monkeypatch.setenv("GRA_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="downloads are switched off"):
        resolve("tiny")
    assert world.asked == []


# ---- the shipped catalog, templates, real weights ---------------------------------------------------------


def test_the_shipped_catalog() -> None:
    shipped = {entry.name: entry for entry in entries.load_catalog()}
    paper = ["llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "internlm3-8b-instruct", "mistral-7b-instruct-v0.3"]
    paper += ["llama-3.1-tulu-3-8b", "qwen2.5-7b", "llama-3.1-8b", "qwen2.5-32b-instruct", "qwen2.5-72b-instruct"]
    small = ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"]
    small += ["gemma-3-270m", "all-minilm-l6-v2"]
    assert set(paper + small) <= set(shipped)
    assert all(shipped[name].packages for name in small)
    assert not any(shipped[name].packages for name in paper)
    assert shipped["gemma-3-270m"].ask_licence
    assert shipped["gemma-3-270m"].base
    assert [entry.name for entry in shipped.values() if entry.remote_code] == ["internlm3-8b-instruct"]


def test_catalog_is_read_strictly(world: World) -> None:
    world.catalog["models"].append({"name": "odd", "hub_id": "a/b", "famly": "x"})  # type: ignore[attr-defined]
    world.save()
    with pytest.raises(RecipeError, match="famly"):
        entries.load_catalog()


def test_template_digest_follows_what_changes_prompts(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert not has_chat_template(folder)
    first = template_digest(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"transformers_version": "9"}))
    assert template_digest(folder) == first
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert context_length(folder) == 64
    first = template_digest(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    second = template_digest(folder)
    assert has_chat_template(folder)
    assert second != first
    (folder / "tokenizer.json").write_text('{"model": 1}')
    assert template_digest(folder) not in (first, second)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="how long a sequence"):
        context_length(folder)


@pytest.mark.models
def test_smollm2_for_real() -> None:
    from transformers import AutoModelForCausalLM

    from gra.models.chat import load_tokenizer

    model = resolve("smollm2-135m-instruct", progress=print)
    tokenizer = load_tokenizer(model.path)
    assert (context_length(model.path), has_chat_template(model.path)) == (8192, True)
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype="bfloat16")
    assert sum(p.numel() for p in network.parameters()) == model.parameters
    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = network.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
