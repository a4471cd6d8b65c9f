"""Rules about the layout: ranks, circles, importers of heavy libraries, light imports, sizes, names."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.metadata
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "gra"
# Packages by rank, lowest first. A package imports only packages of a lower rank (docs/design.md).
RANKS = [
    {"core", "stats"},
    {"config", "sandbox"},
    {"tracking", "downloads", "ledger", "checks"},
    {"models", "data", "engines"},
    {"training", "evaluation", "serving", "runs"},
    {"synthesis", "reports"},
    {"experiment"},
    {"forecast", "desk"},
    {"api"},
    {"cli"},
]
HEAVY = {"torch", "transformers", "vllm", "lm_eval", "wandb", "trl", "peft", "datasets", "sentence_transformers",
         "accelerate", "deepspeed", "matplotlib", "sympy", "math_verify", "ray", "flwr"}  # fmt: skip
ONLY = {"wandb": "tracking.py", "lm_eval": "evaluation/lm_eval.py",
        "vllm": "engines/vllm/start.py engines/vllm/worker.py engines/vllm/cpu_worker.py",
        "math_verify": "checks/answers.py", "ray": "engines/ray.py",
        "flwr": "training/federation/flower.py"}  # fmt: skip
# No file names where packages are downloaded from, nor a path of the machine it was written on.
FORBIDDEN = ["py" + "pi.org", "python" + "hosted.org", "/wo" + "rk/", "/ro" + "ot/"]
MOST_LINES = 400
MOST_MODULES = 15


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_assets" not in path.parts)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and full name of everything a file imports, wherever in the file."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the full name of what is imported"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rank(part: str) -> int:
    found = [i for i, parts in enumerate(RANKS) if part in parts]
    assert found, f"gra/{part} has no rank; add it to RANKS and to docs/design.md"
    return found[0]


def is_part(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_lower_ranks_only(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "gra" or len(parts) < 2 or own == "__init__" or not is_part(parts[1]) or parts[1] == own:
            continue
        assert rank(parts[1]) < rank(own), f"{path}:{line}: gra.{own} must not import gra.{parts[1]}"


def test_imports_form_no_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count."""
    known = {module_name(path): path for path in modules()}
    graph = {
        module: {name for _, name in imported(path) if name in known and name != module}
        for module, path in known.items()
    }
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError, which names the circle


def test_no_folder_has_more_than_fifteen_modules() -> None:
    counts = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_public_class_names_are_unique() -> None:
    homes: dict[str, list[str]] = {}
    for path in modules():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module_name(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_only_the_command_line_imports_typer_or_prints() -> None:
    found = []
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] == "cli":
            continue
        found += [f"{path}:{line}" for line, name in imported(path) if name.split(".")[0] == "typer"]
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_statistics_import_numpy_only() -> None:
    for path in (PACKAGE / "stats").glob("*.py"):
        outside = {name.split(".")[0] for _, name in imported(path)} - set(sys.stdlib_module_names)
        assert outside <= {"numpy", "gra"}, path


@pytest.mark.parametrize(("library", "homes"), ONLY.items())
def test_one_module_speaks_to_each_heavy_library(library: str, homes: str) -> None:
    """vLLM has three: one starts it, one asks it, and vLLM loads its worker for CPUs by name, in another process."""
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for _, name in imported(path))
    }
    assert importers == set(homes.split())


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
    packages = ", ".join(module_name(path) for path in PACKAGE.glob("**/__init__.py"))
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
        if path.suffix == ".py"
        and "tests" not in path.parts
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
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
