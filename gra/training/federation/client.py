"""Train on a client's own rows in a round of a federation, with the trainer of `gra train`.

A round is a training run that starts from the adapter in a message and answers with another one. It depends on
the message, the recipe and the client's rows alone. So a round that was cut off is done again with the same result.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.tracking import TrackingConfig
from gra.config.training import FederationRecipe, StopRateConfig, TrainingDataConfig, TrainRecipe
from gra.core.errors import Mismatch, RecipeError
from gra.core.files import atomic_path, make_folder
from gra.core.progress import View
from gra.training.adapters import adapter_config, adapter_folder, lora_config
from gra.training.federation.aggregate import Array, Tensors
from gra.training.federation.messages import METRICS, AdapterMessage, read_message
from gra.training.options.trl_config import check_arguments
from gra.training.run import train

WEIGHTS = "adapter_model.safetensors"


def training_of(loaded: Loaded[FederationRecipe], sources: list[Any], **changes: Any) -> Loaded[TrainRecipe]:
    """Return the training recipe of a federation on these rows.

    Args:
        loaded: The federation.
        sources: Entries of `data.train`.
        changes: Other sections in place of the federation's.
    """
    recipe = loaded.recipe
    kept = {name: getattr(recipe, name) for name in TrainRecipe.model_fields if name not in changes}
    data = TrainingDataConfig(train=sources, holdout=recipe.data.holdout, max_bad=recipe.data.max_bad)
    quiet = {"stop_rate": StopRateConfig(prompts=0), "tracking": TrackingConfig(wandb="off")}
    return Loaded(TrainRecipe(**{**kept, "data": data, **quiet, **changes}), loaded.path, loaded.origins)


def client_training(loaded: Loaded[FederationRecipe], name: str) -> Loaded[TrainRecipe]:
    """Return the training recipe of a client before the first round.

    Raises:
        RecipeError: The recipe has no such client.
    """
    sources = {client.name: client.train for client in loaded.recipe.clients}
    if name not in sources:
        raise RecipeError(f"there is no client `{name}`; the clients are {', '.join(sources)}", loaded.path)
    return training_of(loaded, sources[name])


def write_adapter(folder: Path, loaded: Loaded[FederationRecipe], tensors: Tensors, base: str | None = None) -> Path:
    """Write an adapter with the configuration of the recipe, and return its folder.

    Args:
        folder: Is made when it is not there.
        loaded: The federation.
        tensors: The adapter.
        base: The model that its configuration names, where it names none yet.
    """
    from safetensors.numpy import save_file

    training = training_of(loaded, [])
    start = adapter_folder(training)
    config = lora_config(training.recipe) if start is None else adapter_config(training, start)
    config.base_model_name_or_path = config.base_model_name_or_path or base
    make_folder(folder)
    config.save_pretrained(str(folder))
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
    return folder


def read_adapter(folder: Path) -> dict[str, Array]:
    """Return the tensors of an adapter as float32."""
    from safetensors.torch import load_file

    return {name: tensor.float().numpy() for name, tensor in load_file(folder / WEIGHTS).items()}


class FederatedClient:
    """One owner of rows, who answers messages.

    Args:
        loaded: The federation's recipe.
        name: The client's, as in the recipe.
        work: A folder of its own for what a round writes; it is emptied after each answer.
    """

    def __init__(self, loaded: Loaded[FederationRecipe], name: str, work: Path) -> None:
        self.name = name
        self._sources = client_training(loaded, name).recipe.data.train
        self._loaded, self._work = loaded, work

    def answer(self, data: bytes) -> bytes:
        """Train on the client's rows from the adapter in a message; return the message with the result.

        Raises:
            GraError: As `gra.training.run.train` does.
        """
        received = read_message(data)
        folder = self._work / f"round-{received.round}"
        try:
            metrics = self._train(received, folder)
        except Mismatch:  # the folder is left over from another federation
            shutil.rmtree(folder)
            metrics = self._train(received, folder)
        learned = AdapterMessage(
            received.round,
            read_adapter(folder / "model"),
            metrics["rows"]["train"]["rows"],
            {key: float(metrics[key]) for key in METRICS if key in metrics and math.isfinite(metrics[key])},
        ).to_bytes()
        shutil.rmtree(self._work, ignore_errors=True)
        return learned

    def _train(self, received: AdapterMessage, folder: Path) -> Mapping[str, Any]:
        from gra.training.federation.callback import FederatedRound

        recipe, options = self._loaded.recipe, check_arguments(training_of(self._loaded, []))
        steps, freeze = int(options["max_steps"]), recipe.aggregate == "freeze_a"
        before, total = steps * received.round, steps * recipe.rounds
        start = write_adapter(folder / "start", self._loaded, received.tensors)
        loaded = training_of(
            self._loaded,
            self._sources,
            lora=None,
            model=recipe.model.model_copy(update={"adapter": str(start.resolve())}),
            # The first round is the run that `gra train` would make; later ones see the rows in another order.
            train={**recipe.train, "seed": options["seed"] + received.round},
        )
        return train(
            loaded,
            folder / "model",
            view=View(folder / "model" / "log.jsonl", quiet=True),
            callbacks=[FederatedRound(before, total, freeze_a=freeze)],
            more_inputs={"federation.before": before, "federation.total": total, "federation.freeze_a": freeze},
        )
