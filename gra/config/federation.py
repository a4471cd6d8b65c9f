"""Define federations: several owners of rows train one adapter, and only adapters leave their machines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gra.config.names import Name
from gra.config.section import Section
from gra.config.training import DataSourceConfig, TrainRecipe
from gra.core.duplicates import repeated

# Their rate depends on what a run has seen, so it is no function of the step.
_NO_FUNCTION_OF_STEPS = ("reduce_lr_on_plateau", "greedy")


class FederationClientConfig(Section):
    """One owner of rows."""

    name: Name
    train: list[DataSourceConfig]


class FederationRecipe(TrainRecipe):
    """A federation: the keys of a training recipe, and the clients and rounds.

    `train.max_steps` counts the steps of a client in a round.
    """

    rounds: int = Field(5, ge=1)
    clients: list[FederationClientConfig] = Field(min_length=1)
    # `fedavg`: the mean by rows. `freeze_a`: A stays as it began, so the mean of B is exact. `stack`: the mean of BA.
    aggregate: Literal["fedavg", "freeze_a", "stack"] = "fedavg"
    least_clients: int = Field(1, ge=1)  # answers without which a round does not count
    # `local`: all clients in this process, one after another. `flower`: on their own machines, through Flower.
    transport: Literal["local", "flower"] = "local"
    timeout_s: float = Field(3600, gt=0)  # with `flower`: a client that takes longer has dropped out of the round
    superlink: str | None = None  # the connection of that name in Flower's configuration

    @model_validator(mode="after")
    def _can_be_federated(self) -> FederationRecipe:
        names = [client.name for client in self.clients]
        if twice := repeated(names):
            raise ValueError(f"two clients have the name {twice[0]}; give each client a name of its own")
        if empty := [client.name for client in self.clients if not client.train]:
            raise ValueError(f"the client {empty[0]} has no rows; name a file: train: [{{path: rows.parquet}}]")
        if self.least_clients > len(names):
            raise ValueError(f"`least_clients: {self.least_clients}` is more than there are clients ({len(names)})")
        if self.method != "sft":
            raise ValueError(f"a federation trains answers; `method: {self.method}` cannot be used in one")
        if not self.adapts:
            raise ValueError("only adapters are sent; add a `lora` section, or `model.adapter`")
        if self.data.train:
            raise ValueError("the rows belong to clients; move `data.train` to `train` of each client")
        steps = self.train.get("max_steps", -1)
        if isinstance(steps, int) and steps < 1:
            raise ValueError("`train.max_steps` is missing; it is the number of steps of a client in a round")
        if (schedule := self.train.get("lr_scheduler_type")) in _NO_FUNCTION_OF_STEPS:
            raise ValueError(
                f"`train.lr_scheduler_type: {schedule}` cannot be continued from round to round; write cosine or linear"
            )
        return self

    def client(self, name: str) -> FederationClientConfig | None:
        """Return the client of a name, or None."""
        return next((client for client in self.clients if client.name == name), None)
