"""The house keeps its shape: light imports, one import direction, one importer per heavy library, short files."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "gra"
# Who may import whom: only what stands lower. Packages of one level do not know each other.
LEVELS = [
    {"core", "review_stats"},
    {"engines", "data", "models", "checks", "sandbox"},
    {"synthesis", "training", "evaluation", "reporting"},
    {"cli", "experiment", "planning"},
]
HEAVY = {"torch", "transformers", "vllm", "lm_eval", "wandb", "trl", "peft", "datasets", "sentence_transformers",
         "accelerate", "deepspeed", "matplotlib", "sympy", "math_verify", "ray"}  # fmt: skip
ONLY = {"wandb": "tracking.py", "lm_eval": "evaluation/lm_eval.py", "vllm": "engines/vllm/worker.py",
        "math_verify": "checks/answers.py", "ray": "engines/ray.py"}  # fmt: skip
# No file names where packages are downloaded from, nor a path of the machine it was written on.
FORBIDDEN = ["py" + "pi.org", "python" + "hosted.org", "/wo" + "rk/", "/ro" + "ot/"]
MOST_LINES = 400


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_assets" not in path.parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the full name of what is imported"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def level(part: str) -> int:
    found = [i for i, parts in enumerate(LEVELS) if part in parts]
    assert found, f"gra/{part} stands on no level; add it to LEVELS and to docs/design.md"
    return found[0]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = part_of(path)
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "gra" or len(parts) < 2 or own == "__init__" or not is_part(parts[1]):
            continue
        other = parts[1]
        allowed = other == own or level(other) < level(own) or level(own) == len(LEVELS) - 1
        assert allowed, f"{path}:{line}: gra.{own} must not import gra.{other}"


def is_part(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_review_statistics_are_pure() -> None:
    for path in (PACKAGE / "review_stats").glob("*.py"):
        outside = {name.split(".")[0] for _, name in imported(path)} - set(sys.stdlib_module_names)
        assert outside <= {"numpy", "gra"}, path


@pytest.mark.parametrize(("library", "home"), ONLY.items())
def test_one_module_speaks_to_each_heavy_library(library: str, home: str) -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for _, name in imported(path))
    }
    assert importers == {home}


PROBE = """
import resource, sys, json
before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
import {module}
spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
print(json.dumps([spent, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


@pytest.mark.parametrize(("module", "seconds"), [("gra", 0.1), ("gra.cli.main", 1.5)])
def test_importing_is_light(module: str, seconds: float, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    spent, loaded = json.loads(done.stdout)
    assert not HEAVY & set(loaded)
    assert spent < seconds, f"importing {module} took {spent:.2f} s of processor time"


def test_importing_any_package_is_light(tmp_path: Path) -> None:
    packages = ", ".join(f"gra.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=packages)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not HEAVY & set(json.loads(done.stdout)[1])


def test_entry_points_shadow_nothing() -> None:
    """Their folder comes first on the path when they run, so a file there could hide a library."""
    known = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    stems = {path.stem for path in (ROOT / "eval").glob("*.py")}
    assert stems
    assert not stems & known
    assert not (ROOT / "eval" / "__init__.py").exists()
    for script in ("train.py", "synthesize.py"):
        assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 30


def repository_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in repository_files()
        if path.suffix == ".py" and (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_no_module_is_named_for_nothing() -> None:
    names = {path.name for path in repository_files()}
    assert not names & {"utils.py", "util.py", "helpers.py", "helper.py", "manager.py", "misc.py", "common.py"}


def test_no_file_names_a_package_host_or_the_machine_it_was_written_on() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not found
