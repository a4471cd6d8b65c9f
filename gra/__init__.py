"""GRA: fine-tuning data from several small language models, by generation, review and adjudication.

    import gra

    run = gra.synthesize("recipes/quickstart/gra.yaml")
    student = gra.train("recipes/gemma-3-270m/sft/config_lora.yaml", data=run)

Importing this package is light: each name is loaded when it is first used (docs/api.md).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gra.core.version import __version__

if TYPE_CHECKING:
    from gra.api.costs import CostForecast, estimate_cost
    from gra.api.evaluation import compare, evaluate
    from gra.api.experiments import run_experiment
    from gra.api.inspection import inspect
    from gra.api.recipes import load_recipe
    from gra.api.runs import EvaluationResult, Run, Student, load_run
    from gra.api.synthesis import stream, synthesize
    from gra.api.training import train
    from gra.api.verifiers import verifier
    from gra.config.committee import CommitteeConfig as Committee
    from gra.config.committee import MemberConfig as Member
    from gra.config.experiment import ExperimentRecipe
    from gra.config.suite import SuiteConfig
    from gra.config.synthesis import SynthesisRecipe
    from gra.config.training import TrainRecipe
    from gra.core.errors import (
        BudgetExhausted,
        DataError,
        EngineUnavailable,
        GraError,
        Mismatch,
        ModelUnavailable,
        NoRows,
        RecipeError,
    )
    from gra.core.types import Candidate, Review, Seed

# OpenMP threads that wait by spinning keep other threads from the core: a tenfold slowdown on two busy cores. Torch
# reads this when it is first imported; a setting of the user's own wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "BudgetExhausted",
    "Candidate",
    "Committee",
    "CostForecast",
    "DataError",
    "EngineUnavailable",
    "EvaluationResult",
    "ExperimentRecipe",
    "GraError",
    "Member",
    "Mismatch",
    "ModelUnavailable",
    "NoRows",
    "RecipeError",
    "Review",
    "Run",
    "Seed",
    "Student",
    "SuiteConfig",
    "SynthesisRecipe",
    "TrainRecipe",
    "__version__",
    "compare",
    "estimate_cost",
    "evaluate",
    "inspect",
    "load_recipe",
    "load_run",
    "run_experiment",
    "stream",
    "synthesize",
    "train",
    "verifier",
]
# Where each public name is: the module that holds it, and its name there where that is another one.
_PUBLIC = {
    "synthesize": "gra.api.synthesis",
    "stream": "gra.api.synthesis",
    "train": "gra.api.training",
    "evaluate": "gra.api.evaluation",
    "compare": "gra.api.evaluation",
    "estimate_cost": "gra.api.costs",
    "run_experiment": "gra.api.experiments",
    "inspect": "gra.api.inspection",
    "load_recipe": "gra.api.recipes",
    "load_run": "gra.api.runs",
    "verifier": "gra.api.verifiers",
    "SynthesisRecipe": "gra.config.synthesis",
    "TrainRecipe": "gra.config.training",
    "SuiteConfig": "gra.config.suite",
    "ExperimentRecipe": "gra.config.experiment",
    "Committee": "gra.config.committee:CommitteeConfig",
    "Member": "gra.config.committee:MemberConfig",
    "Seed": "gra.core.types",
    "Candidate": "gra.core.types",
    "Review": "gra.core.types",
    "Run": "gra.api.runs",
    "Student": "gra.api.runs",
    "EvaluationResult": "gra.api.runs",
    "CostForecast": "gra.api.costs",
    "GraError": "gra.core.errors",
    "RecipeError": "gra.core.errors",
    "DataError": "gra.core.errors",
    "BudgetExhausted": "gra.core.errors",
    "ModelUnavailable": "gra.core.errors",
    "EngineUnavailable": "gra.core.errors",
    "Mismatch": "gra.core.errors",
    "NoRows": "gra.core.errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gra' has no attribute {name!r}")
    module, _, inside = _PUBLIC[name].partition(":")
    value = globals()[name] = getattr(import_module(module), inside or name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
