"""Do the whole job of `gra run`: datasets, students, evaluations, comparison and report."""

from gra.experiment.plan import ExperimentPlan, load_experiment, planned_rows, trained_rows, training_steps
from gra.experiment.run import ExperimentResult, arm_jobs, run_experiment
from gra.experiment.students import StageFailed

__all__ = [
    "ExperimentPlan",
    "ExperimentResult",
    "StageFailed",
    "arm_jobs",
    "load_experiment",
    "planned_rows",
    "run_experiment",
    "trained_rows",
    "training_steps",
]
