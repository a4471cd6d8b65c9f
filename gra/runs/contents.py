"""What a run folder holds, read for the report.

Sections that a run does not have are empty, never made up: a run of synthesis alone has no students and no
comparison, a run that was stopped early may lack an arm's manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.progress import read_events
from gra.core.resolved_recipe import read_resolved_recipe
from gra.core.run_folder import MANIFEST, RunFolder
from gra.core.types import State
from gra.data.export import read_lineage

Row = dict[str, Any]
# Arms that write nothing themselves have no funnel and no reviewers to show.
_COPYING = ("vanilla", "distilled")


@dataclass(frozen=True)
class ArmRun:
    """One dataset of the run: its section of the manifest, its lineage, and the recipe it was made by."""

    name: str
    kind: str
    facts: dict[str, Any]
    rows: list[Row]
    recipe: dict[str, Any]

    @property
    def accept_mean(self) -> float | None:
        """The mean score (0-10) from which on a response passes the gate."""
        return _number(self.recipe.get("review", {}).get("accept_mean"))

    @property
    def dispute_std(self) -> float | None:
        """The spread of scores above which the adjudicator decides."""
        return _number(self.recipe.get("review", {}).get("dispute_std"))

    @property
    def committee(self) -> bool:
        """Whether a committee wrote and reviewed this arm's rows."""
        return self.kind not in _COPYING

    def accepted(self) -> int:
        """Rows of the dataset."""
        return sum(row["state"] == State.ACCEPTED for row in self.rows)


@dataclass(frozen=True)
class TrainedStudent:
    """One trained model: the manifest's section, the metrics it wrote, and the trainer's log, step by step."""

    key: str
    facts: dict[str, Any]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def arm(self) -> str:
        """The arm whose dataset it was trained on; the folder is called <arm>-seed<k>."""
        return self.key.rpartition("-seed")[0] or self.key


@dataclass(frozen=True)
class RunContents:
    """Everything the report is made of."""

    run: Path
    arms: list[ArmRun]
    students: list[TrainedStudent]
    comparison: dict[str, Any]
    events: list[dict[str, Any]]
    experiment: dict[str, Any]
    environments: list[dict[str, Any]] = field(default_factory=list)


def read_contents(run: Path) -> RunContents:
    """Read a run folder.

    Raises:
        DataError: when a file that is there cannot be read.
    """
    folders = [run, *_subfolders(run / "arms"), *_subfolders(run / "models"), *_subfolders(run / "eval")]
    manifests = {folder: _manifest(folder) for folder in folders}
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
        comparison=_json(run / "compare" / "compare.json"),
        events=read_events(run / "log.jsonl"),
        experiment=experiment,
        environments=[s["environment"] for s in sections if "environment" in s],
    )


def find_lineages(run: Path) -> list[Path]:
    """The lineage files of a run: its own, and those of its arms."""
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
    states = sorted(folder.glob("checkpoints/checkpoint-*/trainer_state.json"), key=lambda f: int(f.parent.name[11:]))
    log = _json(states[-1]).get("log_history", []) if states else []
    return TrainedStudent(folder.name, manifest.get("training", {}), _json(folder / "metrics.json"), log)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return RunFolder(folder).manifest()
    except ValueError as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({error}); run the stage that writes it again") from None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); run the stage that writes it again") from None
