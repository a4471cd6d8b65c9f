"""Track stages with Weights & Biases; the only module that imports wandb.

Runs are offline unless the user is logged in. Synthesis, training and evaluation of one experiment
share a group. Tracking never stops a run: if W&B cannot start, one warning is logged and the run goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gra.config.tracking import TrackingConfig
from gra.core.errors import user_path
from gra.core.files import make_folder, refuse_link

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Interface for a stage that reports while it runs."""

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log one point of one or more series."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the final figures."""

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Attach a file or folder."""

    def finish(self) -> None:
        """Flush and close."""


class NullTracker:
    """Tracker that ignores everything."""

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Ignore the values."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Ignore the values."""

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Ignore the file."""

    def finish(self) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run; a failure of W&B is logged as a warning and never ends the stage."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._warned = False

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log one point of one or more series."""
        self._try(lambda: self._run.log(dict(values), step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the final figures."""
        self._try(lambda: self._run.summary.update(dict(values)))

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Attach a file or folder."""

        def attach() -> None:
            import wandb

            artifact = wandb.Artifact(name.replace("/", "-"), type=kind)
            (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
            self._run.log_artifact(artifact)

        self._try(attach)

    def finish(self) -> None:
        """Flush and close."""
        self._try(lambda: self._run.finish())

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if not self._warned:
                log.warning("W&B failed (%s: %s); the run goes on untracked", type(error).__name__, error)
            self._warned = True


def _mode(tracking: TrackingConfig) -> str:
    """Return the mode: `auto` is WANDB_MODE if set, else online for a user who is logged in, else offline."""
    if tracking.wandb != "auto":
        return tracking.wandb
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    netrc = user_path(os.environ.get("NETRC", "~/.netrc"), "NETRC")
    logged_in = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    return "online" if logged_in else "offline"


def start_tracking(
    tracking: TrackingConfig, *, stage: str, name: str, group: str | None, config: Mapping[str, Any], folder: Path
) -> Tracker:
    """Open a tracked run for one stage (`synthesis`, `training`, `evaluation` or `report`) of a group."""
    mode = _mode(tracking)
    if mode in ("off", "disabled"):
        return NullTracker()
    os.environ.setdefault("WANDB_SILENT", "true")
    make_folder(folder)
    refuse_link(folder / "wandb")  # where W&B writes
    try:
        import wandb

        run = wandb.init(
            project=tracking.project,
            group=tracking.group or group,
            name=name,
            job_type=stage,
            config=dict(config),
            dir=str(folder),
            # The arms of an experiment are tracked side by side in one process.
            reinit="create_new",
            mode="online" if mode == "online" else "offline",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
    except Exception as error:  # tracking must never cost a run
        log.warning("W&B could not start (%s: %s); this stage is not tracked", type(error).__name__, error)
        return NullTracker()
    return WandbTracker(run)
