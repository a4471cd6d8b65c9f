"""Plan a federation: check the recipe and every client's rows, name what decides the result, and make the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.config.loader import Loaded
from gra.config.training import FederationRecipe
from gra.core.errors import DataError
from gra.training.adapters import lora_config, with_adapter
from gra.training.data.tokenize import fingerprint, student_tokenizer
from gra.training.dry_run import preview
from gra.training.federation.aggregate import Array
from gra.training.federation.client import client_training, training_of
from gra.training.launch import launch_from_environment
from gra.training.options.trl_config import check_arguments, on_cpu
from gra.training.plan import check_fit, inputs_of, load_weights, make_plan, read_data, stored

if TYPE_CHECKING:
    from gra.models.catalog import ResolvedModel

_ROWS = ("data.train.", "data.set_aside")  # inputs that are a client's own


def federation_inputs(
    loaded: Loaded[FederationRecipe], model: ResolvedModel, say: Callable[[str], None], *, with_rows: bool
) -> dict[str, Any]:
    """Return the inputs that decide the result, flat, so that a difference can be named.

    Args:
        loaded: The recipe.
        model: The student.
        say: Receives notes and warnings.
        with_rows: Whether the clients' rows are on this machine. They are read and checked then.

    Raises:
        RecipeError, DataError: Naming the line, or the client, file and row, that is wrong.
    """
    recipe = loaded.recipe
    training = training_of(loaded, [])
    options = check_arguments(training)
    tokenizer = student_tokenizer(model.path, training, model.remote_code)
    inputs = inputs_of(training, options, model.identity, fingerprint(tokenizer), [])
    inputs |= {f"federation.{key}": getattr(recipe, key) for key in ("rounds", "aggregate")}
    inputs |= {f"clients.{client.name}": "a client" for client in recipe.clients}
    if not with_rows:
        for warning in check_fit(training, options, (), tokenizer, stored(training, recipe.model.name, model)):
            say(f"! {warning}")
    for client in recipe.clients if with_rows else ():
        with _rows_of(client.name):
            plan = make_plan(client_training(loaded, client.name), say)
        for warning in plan.warnings:
            say(f"! {client.name}: {warning}")
        own = {key: value for key, value in plan.inputs.items() if key.startswith(_ROWS)}
        inputs |= {f"clients.{client.name}.{key}": value for key, value in own.items()}
    return inputs


def make_start(loaded: Loaded[FederationRecipe], model: ResolvedModel, output: Path) -> dict[str, Array]:
    """Return the adapter before the first round: a new one, as `gra train` begins it, or that of `model.adapter`.

    Tokenizer, chat template and stop tokens of the student are written into `output`.
    """
    from peft import get_peft_model_state_dict
    from transformers import set_seed

    from gra.training.stop_rate import set_stop_tokens

    training = training_of(loaded, [])
    options = check_arguments(training)
    student = load_weights(training, options, model)
    if (config := lora_config(training.recipe)) is not None:
        set_seed(options["seed"])
        student = with_adapter(student, config)
    tokenizer = student_tokenizer(model.path, training, model.remote_code)
    set_stop_tokens(student, tokenizer)
    tokenizer.save_pretrained(output)
    student.generation_config.save_pretrained(output)
    tensors = get_peft_model_state_dict(student, save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in tensors.items()}


def preview_federation(loaded: Loaded[FederationRecipe]) -> dict[str, Any]:
    """Check the recipe and the clients' rows, and count rows, steps and memory; nothing is trained.

    With `transport: flower` the rows are elsewhere, so the recipe alone is checked.

    Raises:
        RecipeError, DataError: As `federation_inputs`.
    """
    recipe = loaded.recipe
    cpu = on_cpu(check_arguments(training_of(loaded, [])))
    seen: dict[str, Any] = {"name": recipe.name, "rounds": recipe.rounds, "aggregate": recipe.aggregate,
                            "differentially_private": False, "clients": {}}  # fmt: skip
    if recipe.transport == "flower":
        return seen
    for client in recipe.clients:
        with _rows_of(client.name):
            seen["clients"][client.name] = read_data(client_training(loaded, client.name))[0].read
    everything = training_of(loaded, [source for client in recipe.clients for source in client.train])
    plan = preview(everything, launch_from_environment(cpu=cpu), cpu=cpu)
    return {**plan, **seen}


@contextmanager
def _rows_of(name: str) -> Iterator[None]:
    """Name the client whose rows are wrong.

    Raises:
        DataError: In place of the error of its file.
    """
    try:
        yield
    except DataError as problem:
        raise DataError(f"client `{name}`: {problem}") from problem
