"""Synthesis in child processes that can be killed, and checks of what they leave."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from paths import HELPERS

from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder

PARTS = ("train", "contested", "preferences", "lineage")


FILES = (
    *(f"dataset/{part}.parquet" for part in (*PARTS, "unreviewed")), "dataset/README.md", "lineage.parquet"
)  # fmt: skip


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Fresh processes that have imported everything already, so that dozens of them are quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripted_run", "gra.synthesis.run_arm", "gra.serving.models"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HELPERS))
        first = context.Process(target=int)
        first.start()
        first.join()
    return context


def asked(folder: Path) -> list[str]:
    return (folder / "asked.txt").read_text().split()


def check_same(folder: Path, uninterrupted: Path) -> None:
    assert {name: file_digest(folder / name) for name in FILES + ROUNDS} == {
        name: file_digest(uninterrupted / name) for name in FILES + ROUNDS
    }
    assert RunFolder(folder).verify() == len(FILES) + 1 + len(ROUNDS)


ROUNDS = ("dataset/rounds/1.parquet", "dataset/rounds/2.parquet")
