"""Run a federation: rounds in which clients train on their own rows and the server combines their adapters.

The manifest is written after each whole round, with its number and the digest of the aggregate. A run that was killed
goes on from there. A folder that holds another federation is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gra.config.loader import Loaded
from gra.config.training import FederationRecipe
from gra.core.errors import EngineUnavailable, Mismatch, RecipeError, saving
from gra.core.files import atomic_path, write_json, write_text
from gra.core.hashing import digest
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED
from gra.training.checkpoints import refuse_difference
from gra.training.federation.aggregate import Array, aggregate, refuse_other_a, shares
from gra.training.federation.client import FederatedClient, training_of, write_adapter
from gra.training.federation.messages import AdapterMessage, adapter_digest, read_message
from gra.training.federation.plan import federation_inputs, make_start, preview_federation
from gra.training.federation.report import PRIVACY, card, traffic
from gra.training.launch import launch_from_environment
from gra.training.options.trl_config import check_arguments, on_cpu
from gra.training.plan import find_student
from gra.training.run import NOT_THE_MODEL, be_quiet, weights_facts

if TYPE_CHECKING:
    from gra.models.catalog import ResolvedModel

SECTION = "federation"
_HISTORY = "rounds.json"


class Transport(Protocol):
    """Bring messages to clients and their answers back."""

    def exchange(self, message: bytes, clients: Sequence[str]) -> Mapping[str, bytes]:
        """Send a message to every client and return the answers by name; a client that dropped out has none."""
        ...


class LocalTransport:
    """Let clients answer in this process, one after another."""

    def __init__(self, clients: Sequence[FederatedClient], view: View) -> None:
        self._clients, self._view = clients, view

    def exchange(self, message: bytes, clients: Sequence[str]) -> dict[str, bytes]:
        """Return the answer of every client."""
        answers = {}
        for client in self._clients:
            self._view.note(f"  {client.name} trains")
            answers[client.name] = client.answer(message)
        return answers


@dataclass
class _State:
    """Where a run stands after a whole round."""

    tensors: dict[str, Array]
    history: list[dict[str, Any]]

    @property
    def round(self) -> int:
        """Return how many rounds are whole."""
        return len(self.history)


def federate(
    loaded: Loaded[FederationRecipe],
    output: Path,
    *,
    transport: Transport | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    view: View | None = None,
) -> dict[str, Any]:
    """Train one adapter on the rows of all clients, into `output`.

    Args:
        loaded: The checked recipe.
        output: The model folder; made when it is not there.
        transport: Brings messages to clients; all clients answer in this process when not given.
        dry_run: Check the recipe and the rows that are here, and return the plan.
        fresh: Delete the federation that is in `output`.
        view: Shows progress; on standard error and in `output`/log.jsonl when not given.

    Returns:
        The facts of the run with `status` "trained" or "already trained", or the plan of a dry run.

    Raises:
        RecipeError, DataError: The recipe or a row is wrong.
        ModelUnavailable: The student's weights cannot be had.
        EngineUnavailable: Fewer clients answered than `least_clients`; the rounds before are kept.
        Mismatch: `output` holds another federation.
    """
    be_quiet()
    recipe = loaded.recipe
    options = check_arguments(training_of(loaded, []))
    if launch_from_environment(cpu=on_cpu(options)).processes > 1:
        raise RecipeError("a federation runs in one process; start it without `accelerate launch`", loaded.path)
    if dry_run:
        return preview_federation(loaded)
    view = view or View(output / "log.jsonl")
    folder = RunFolder(output)
    if recipe.transport == "flower" and transport is None:
        return _through_flower(loaded, folder, fresh, view)
    with folder.create().lock(), saving(folder.path):
        model, inputs = _prepare(loaded, folder, fresh, view)
        before = folder.manifest().get(SECTION)
        if before is not None and _is_finished(folder, before):
            view.note(f"{output} already holds this federation; nothing to train")
            return {**before, "status": "already trained"}
        view.note(f"! {PRIVACY}")
        size = sum(file.stat().st_size for file in model.path.glob("*.safetensors"))
        facts = {
            "fingerprint": digest(inputs), "inputs": inputs, "aggregate": recipe.aggregate,
            "model": {**weights_facts(recipe.model.name, model), "bytes": size},
            "differentially_private": False,
        }  # fmt: skip
        state = _resume(output, before) if before is not None else _State(make_start(loaded, model, output), [])
        if before is None:
            _record(folder, facts, state)
        transport = transport or LocalTransport(
            [FederatedClient(loaded, each.name, output / "clients" / each.name) for each in recipe.clients], view
        )
        for number in range(state.round, recipe.rounds):
            with view.stage(f"round {number + 1} of {recipe.rounds}"):
                state = _round(loaded, transport, state, view)
                _record(folder, facts, state)
        return {**_finish(loaded, folder, facts, state), "status": "trained"}


def _round(loaded: Loaded[FederationRecipe], transport: Transport, state: _State, view: View) -> _State:
    """Send the adapter, gather the answers and combine them."""
    recipe = loaded.recipe
    message = AdapterMessage(state.round, state.tensors).to_bytes()
    found: dict[str, AdapterMessage] = {}
    refused: dict[str, str] = {}
    answers = transport.exchange(message, [client.name for client in recipe.clients])
    for client in recipe.clients:
        if client.name not in answers:
            refused[client.name] = "it did not answer"
            continue
        try:
            answer = read_message(answers[client.name], like=state.tensors)
            if answer.round != state.round or not answer.rows:
                raise Mismatch("it answered another round, or without rows")
            if recipe.aggregate == "freeze_a":
                refuse_other_a(answer.tensors, state.tensors)
            found[client.name] = answer
        except Mismatch as problem:
            refused[client.name] = str(problem)
    for name, reason in refused.items():
        view.note(f"! {name} does not count in this round: {reason}")
    if len(found) < recipe.least_clients:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise EngineUnavailable(
            f"{len(found)} of {len(recipe.clients)} clients count in round {state.round + 1}, and `least_clients` "
            f"is {recipe.least_clients} ({reasons}); run the same command again when that is mended"
        )
    rows = [answer.rows for answer in found.values()]
    tensors = aggregate(recipe.aggregate, [answer.tensors for answer in found.values()], rows)
    clients = {
        name: {"rows": answer.rows, "weight": float(weight), "received": len(answers[name]), **answer.metrics}
        for (name, answer), weight in zip(found.items(), shares(rows), strict=True)
    }
    facts = {"round": state.round + 1, "digest": adapter_digest(tensors), "sent": len(message), "clients": clients,
             "left_out": refused}  # fmt: skip
    return _State(tensors, [*state.history, facts])


def _record(folder: RunFolder, facts: Mapping[str, Any], state: _State) -> None:
    """Write the aggregate of a whole round, and then the manifest that names it."""
    file = _aggregate_file(folder.path, state.round)
    with atomic_path(file) as temporary:
        temporary.write_bytes(AdapterMessage(state.round, state.tensors).to_bytes())
    section = {**facts, "round": state.round, "digest": adapter_digest(state.tensors), "rounds": state.history}
    folder.record(SECTION, section, [file])
    for other in folder.path.glob("aggregate-*.safetensors"):
        if other != file:
            other.unlink()


def _aggregate_file(output: Path, number: int) -> Path:
    return output / f"aggregate-{number}.safetensors"


def _resume(output: Path, section: Mapping[str, Any]) -> _State:
    """Return the last whole round.

    Raises:
        Mismatch: Its aggregate is not the one that the manifest knows.
    """
    file = _aggregate_file(output, section["round"])
    if not file.is_file():
        raise Mismatch(f"{file}, the aggregate of the last whole round, is gone; delete {output} to start over")
    tensors = dict(read_message(file.read_bytes()).tensors)
    if adapter_digest(tensors) != section["digest"]:
        raise Mismatch(f"{file} is not the aggregate that the manifest knows; delete {output} to start over")
    return _State(tensors, list(section["rounds"]))


def _finish(
    loaded: Loaded[FederationRecipe], folder: RunFolder, facts: Mapping[str, Any], state: _State
) -> dict[str, Any]:
    """Write the last aggregate as the student's adapter, and the manifest with all files."""
    output = folder.path
    write_adapter(output, loaded, state.tensors, facts["model"]["path"])
    write_text(output / RESOLVED, loaded.show() + "\n")
    write_json(output / _HISTORY, state.history)
    write_text(output / "README.md", card(loaded.recipe, facts["model"], state.history))
    section = {**facts, "round": state.round, "digest": adapter_digest(state.tensors), "rounds": state.history}
    section |= {
        "finished": True,
        "traffic": traffic(state.history, len(loaded.recipe.clients), facts["model"]["bytes"]),
    }
    files = [path for path in output.iterdir() if path.is_file() and path.name not in NOT_THE_MODEL]
    folder.record(SECTION, section, files)
    return section


def _prepare(
    loaded: Loaded[FederationRecipe], folder: RunFolder, fresh: bool, view: View
) -> tuple[ResolvedModel, dict[str, Any]]:
    """Check everything before a round, and return the student and what decides the result.

    Raises:
        GraError: As `federate`.
    """
    if others := [name for name in folder.manifest() if name not in ("manifest_version", SECTION)]:
        raise RecipeError(f"{folder.path} holds what `{others[0]}` wrote; give the federation a folder of its own, "
                          "with `--output`")  # fmt: skip
    if fresh:
        folder.drop(SECTION)
        shutil.rmtree(folder / "clients", ignore_errors=True)
    model = find_student(loaded.recipe, view.note)
    inputs = federation_inputs(loaded, model, view.note, with_rows=loaded.recipe.transport == "local")
    if (before := folder.manifest().get(SECTION)) is not None:
        refuse_difference(folder.path, before["inputs"], inputs)
    return model, inputs


def _is_finished(folder: RunFolder, section: Mapping[str, Any]) -> bool:
    """Return whether the student of a section is there, with all files as they were written."""
    return bool(section.get("finished")) and folder.completed(SECTION, section["fingerprint"]) is not None


def _through_flower(loaded: Loaded[FederationRecipe], folder: RunFolder, fresh: bool, view: View) -> dict[str, Any]:
    """Let Flower run the server's part in a process of its own, and return what that one recorded."""
    from gra.training.federation.flower import start

    with folder.create().lock(), saving(folder.path):
        _prepare(loaded, folder, fresh, view)
    done = _is_finished(folder, folder.manifest().get(SECTION, {}))
    if not done:
        start(loaded, folder.path, view)
    found = folder.manifest().get(SECTION, {})
    if not found.get("finished"):
        raise EngineUnavailable(
            f"the federation ended after {found.get('round', 0)} of {loaded.recipe.rounds} rounds; see the messages "
            f"above and {folder / 'log.jsonl'}, and run the same command again"
        )
    return {**found, "status": "already trained" if done else "trained"}
