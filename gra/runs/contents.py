"""Read a run folder for the report.

Sections that a run does not have are empty. A run of synthesis alone has no students and no comparison. A run that
was stopped early may lack the manifest of an arm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra.config.arms import ARMS, ArmSpec, find_arm
from gra.core.files import refuse_special_files
from gra.core.progress import read_events
from gra.core.run_folder import RunFolder
from gra.core.stored.comparison import Comparison
from gra.core.stored.reader import read_json
from gra.core.stored.resolved_recipe import read_resolved_recipe
from gra.core.stored.types import Metrics, TrainerState
from gra.core.types import State
from gra.data.export import read_lineage

Row = dict[str, Any]
REPORTED = "-report"  # ends the folders `eval` and `compare` of the suite for the reported figures


@dataclass(frozen=True)
class ArmRun:
    """One dataset of the run: its section of the manifest, its lineage and its recipe."""

    name: str
    kind: str
    facts: dict[str, Any]
    rows: list[Row]
    recipe: dict[str, Any]

    @property
    def accept_mean(self) -> float | None:
        """Lowest mean score (0-10) that passes the gate."""
        return _number(self.recipe.get("review", {}).get("accept_mean"))

    @property
    def dispute_std(self) -> float | None:
        """Spread of scores above which the adjudicator decides."""
        return _number(self.recipe.get("review", {}).get("dispute_std"))

    @property
    def spec(self) -> ArmSpec:
        """What the arm does."""
        if self.kind not in ARMS:  # an arm of another installation
            return ArmSpec("", needs_committee=bool(self.facts.get("members")))
        return find_arm(self.kind, (self.recipe.get("teacher") or {}).get("writes"))

    @property
    def committee(self) -> bool:
        """Whether a committee wrote and reviewed this arm's rows; other arms have no funnel and no reviewers."""
        return self.spec.needs_committee

    def accepted(self) -> int:
        """Count the rows of the dataset."""
        return sum(row["state"] == State.ACCEPTED for row in self.rows)


@dataclass(frozen=True)
class TrainedStudent:
    """One trained model: its section of the manifest, its metrics, and the steps of the trainer's log."""

    key: str
    facts: dict[str, Any]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def arm(self) -> str:
        """Arm of its dataset; the folder is called <arm>-seed<k>."""
        return self.key.rpartition("-seed")[0] or self.key


@dataclass(frozen=True)
class RunContents:
    """Everything that the report shows."""

    run: Path
    arms: list[ArmRun]
    students: list[TrainedStudent]
    comparison: dict[str, Any]
    events: list[dict[str, Any]]
    experiment: dict[str, Any]
    environments: list[dict[str, Any]] = field(default_factory=list)
    reported: dict[str, Any] = field(default_factory=dict)


def read_contents(run: Path) -> RunContents:
    """Read a run folder.

    Raises:
        DataError: when a file that is there cannot be read.
    """
    refuse_special_files(run)
    reported = is_reported(run)
    evaluated = ["eval", *([f"eval{REPORTED}"] if reported else [])]
    folders = [run, *(folder for name in ("arms", "models", *evaluated) for folder in _subfolders(run / name))]
    manifests = {folder: RunFolder(folder).manifest() for folder in folders}
    sections = [s for m in manifests.values() for s in m.values() if isinstance(s, dict)]
    experiment = {**read_resolved_recipe(run), **manifests[run].get("experiment", {})}
    order = {name: place for place, name in enumerate(experiment.get("arms", ()))}
    arms = [arm for folder in folders if (arm := _arm(folder, folder == run, manifests[folder])) is not None]
    return RunContents(
        run=run,
        arms=sorted(arms, key=lambda arm: (order.get(arm.name, len(order)), arm.committee)),
        students=sorted(
            (_student(folder, manifests[folder]) for folder in _subfolders(run / "models")),
            key=lambda student: order.get(student.arm, len(order)),
        ),
        comparison=_comparison(run / "compare" / "compare.json"),
        events=read_events(run / "log.jsonl"),
        experiment=experiment,
        environments=[s["environment"] for s in sections if "environment" in s],
        reported=_comparison(run / f"compare{REPORTED}" / "compare.json") if reported else {},
    )


def is_reported(run: Path) -> bool:
    """Return whether the run's experiment has a `report_suite`; without one, what an earlier run left is stale."""
    return bool(read_resolved_recipe(run).get("report_suite"))


def find_lineages(run: Path) -> list[Path]:
    """List the lineage files of a run: its own, and those of its arms."""
    return [file for folder in (run, *_subfolders(run / "arms")) if (file := folder / "lineage.parquet").is_file()]


def _arm(folder: Path, alone: bool, manifest: Mapping[str, Any]) -> ArmRun | None:
    facts, lineage = manifest.get("synthesis", {}), folder / "lineage.parquet"
    if not facts and not lineage.is_file():
        return None
    rows = read_lineage(lineage) if lineage.is_file() else []
    kind = facts.get("arm") or (rows[0]["arm"] if rows else "gra")
    name = facts.get("name", folder.name) if alone else folder.name
    return ArmRun(name, kind, facts, rows, read_resolved_recipe(folder))


def _student(folder: Path, manifest: Mapping[str, Any]) -> TrainedStudent:
    states = [
        (int(found[1]), file)
        for file in folder.glob("checkpoints/checkpoint-*/trainer_state.json")
        if (found := re.fullmatch(r"checkpoint-([0-9]{1,15})", file.parent.name))
    ]
    log = read_json(max(states)[1], TrainerState).get("log_history", []) if states else []
    return TrainedStudent(folder.name, manifest.get("training", {}), read_json(folder / "metrics.json", Metrics), log)


def _comparison(file: Path) -> dict[str, Any]:
    return dict(read_json(file, Comparison)) if file.is_file() else {}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
