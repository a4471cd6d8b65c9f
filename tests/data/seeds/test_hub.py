"""Seeds from the hub: copied once, and what is said when they do not come."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gra.config.synthesis import DOMAINS, SeedsConfig
from gra.core.errors import DataError, GraError, HubUnavailable, RecipeError
from gra.data.seeds import hub as seed_hub
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import load_seeds

ASKED, SAID = "Name a river.", "The Nile"


def test_a_dataset_on_the_hub_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((args, options))
        return [{"instruction": ASKED, "input": "", "output": f"{SAID} {n}"} for n in range(3)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(seed_hub, "hub_reachable", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    source = SeedsConfig(source="someone/some-data", revision="abc", domain="qa")
    path = find_seeds(source, tmp_path / "recipe.yaml")
    assert [s.response for s in load_seeds(path, DOMAINS, source).rows] == [f"{SAID} {n}" for n in range(3)]
    monkeypatch.setattr(seed_hub, "hub_reachable", lambda: False)
    assert find_seeds(source, tmp_path / "recipe.yaml") == path
    assert asked == [(("someone/some-data", None), {"split": "train", "revision": "abc"})]
    with pytest.raises(HubUnavailable, match=r"someone/some-data.*hub cannot be reached"):
        find_seeds(source.model_copy(update={"split": "test"}), tmp_path / "recipe.yaml")


def _not_found() -> Exception:
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError("no such dataset")


def _generating(cause: Exception) -> Exception:
    from datasets.exceptions import DatasetGenerationError

    error = DatasetGenerationError("An error occurred")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (_not_found, HubUnavailable, "no such dataset.*check the name"),
        (lambda: httpx.ConnectError("broke off"), HubUnavailable, "broke off"),
        (lambda: _generating(ConnectionError("broke off")), HubUnavailable, "broke off"),
        (lambda: _generating(OSError(errno.ENOSPC, "full")), DataError, "No space left on device; free some space"),
        (lambda: _generating(TypeError("columns differ")), DataError, "columns differ; check"),
        (
            lambda: ValueError('Unknown split "trian".'),
            DataError,
            r'Unknown split "trian"\.; check `seeds\.config`, `split`',
        ),
    ],
)
def test_a_dataset_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], kind: type[GraError], sentence: str
) -> None:
    import datasets

    def load_dataset(*args: Any, **options: Any) -> None:
        raise error()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(seed_hub, "hub_reachable", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(kind, match=sentence) as caught:
        find_seeds(SeedsConfig(source="someone/nothing"), tmp_path / "recipe.yaml")
    assert caught.value.exit_code == (4 if kind is HubUnavailable else 2)


@pytest.mark.parametrize("name", ["../seeds", "-a/b", "a/b--c", "a/..", "a/b.git"])
def test_a_name_that_no_dataset_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="is no file, nor a dataset's name on the hub"):
        find_seeds(SeedsConfig(source=name), tmp_path / "recipe.yaml")


def test_a_file_that_is_not_there_is_no_dataset(tmp_path: Path) -> None:
    for name in ("data/seeds.jsonl", "seeds.csv", "a/b/c"):
        with pytest.raises(RecipeError, match="is not there"):
            find_seeds(SeedsConfig(source=name), tmp_path / "recipe.yaml")
