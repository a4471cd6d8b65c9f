"""The public names of the package: which there are, that each is documented, and that importing them is lazy."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import gra

NAMES = {
    "BudgetExhausted", "Candidate", "Committee", "CostForecast", "DataError", "EngineUnavailable", "EvaluationResult",
    "ExperimentRecipe", "GraError", "Member", "Mismatch", "ModelUnavailable", "NoRows", "RecipeError", "Review",
    "Run", "Seed", "Student", "SuiteConfig", "SynthesisRecipe", "TrainRecipe", "__version__", "compare",
    "estimate_cost", "evaluate", "inspect", "load_recipe", "load_run", "run_experiment", "stream", "synthesize",
    "train", "verifier",
}  # fmt: skip
DOCUMENT = ROOT / "docs" / "api.md"


def test_public_names_are_these() -> None:
    assert set(gra.__all__) == NAMES == set(dir(gra))
    assert set(gra._PUBLIC) == NAMES - {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_public_name_has_a_docstring_and_stands_in_the_document(name: str) -> None:
    value = getattr(gra, name)
    assert inspect.getdoc(value)
    assert re.search(rf"`(gra\.)?{name}[`(]", DOCUMENT.read_text(encoding="utf-8")), name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gra.nothing


def test_each_name_is_imported_without_torch(tmp_path: Path) -> None:
    code = "import sys, gra; [getattr(gra, name) for name in gra.__all__]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", snippets())
def test_snippet_of_the_document_uses_what_there_is(code: str) -> None:
    compile(code, "docs/api.md", "exec")
    for name in re.findall(r"(?<![\w/])gra\.(\w+)", code):
        assert name in NAMES, name
    for call, given in re.findall(r"(?<![\w/])gra\.(\w+)\(((?:[^()]|\([^()]*\))*)\)", code):
        options = set(re.findall(r"(\w+)=(?!=)", re.sub(r"\"[^\"]*\"|\{[^{}]*\}|\([^()]*\)", "", given)))
        if inspect.isfunction(getattr(gra, call)):
            assert options <= set(inspect.signature(getattr(gra, call)).parameters), (call, options)
