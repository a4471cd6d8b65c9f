"""The recipe section for experiment tracking."""

from __future__ import annotations

from typing import Literal

from gra.config.section import Section


class TrackingConfig(Section):
    """W&B: `auto` is online when the user is logged in and offline otherwise."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "gra"
    group: str | None = None
