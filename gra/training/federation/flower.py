"""Carry the messages of a federation through Flower (the extra `federation`).

Flower brings bytes to the clients' machines and back, and checks who they are; rounds and aggregation are GRA's own.
Its SuperLink runs the server's part and its SuperNodes the clients' parts: docs/systems.md shows the commands.
A failure at a client is written to that machine alone, because its text may repeat a row.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.training import FederationRecipe
from gra.core.errors import EngineUnavailable
from gra.core.files import make_folder, write_text
from gra.core.processes.secrets import child_environment
from gra.core.progress import View
from gra.training.federation.client import FederatedClient
from gra.training.options.trl_config import load_trained

APP = "gra-federation"
_RECORD = "gra"
_POLL_S = 1.0
_PROJECT = """[project]
name = "gra-federation"
version = "1.0.0"
description = "The rounds of a federation of GRA"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "gra"

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
recipe = {recipe}
output = {output}
"""
_CODE = """from gra.training.federation.flower import make_client_app, make_server_app
from gra.training.federation.run import federate

server = make_server_app(federate)
client = make_client_app()
"""


class FlowerTransport:
    """Exchange messages with the clients that are connected to a SuperLink.

    Args:
        grid: Flower's access to the nodes.
        timeout_s: After which a client that has not answered has dropped out of the round.
        view: Shows progress.
    """

    def __init__(self, grid: Any, timeout_s: float, view: View) -> None:
        self._grid, self._timeout_s, self._view = grid, timeout_s, view
        self._first = True

    def exchange(self, message: bytes, clients: Sequence[str]) -> Mapping[str, bytes]:
        """Send a message to every node and return the answers of clients that the recipe knows."""
        from flwr.app import ConfigRecord, Message, RecordDict

        nodes = self._connected(len(clients) if self._first else 1)
        self._first = False
        self._view.note(f"  {len(nodes)} of {len(clients)} clients are connected")
        content = RecordDict({_RECORD: ConfigRecord({"data": message})})
        sent = [Message(content, node, "train") for node in nodes]
        answers: dict[str, bytes] = {}
        for reply in self._grid.send_and_receive(sent, timeout=self._timeout_s) if sent else ():
            record = {} if reply.has_error() else dict(reply.content.get(_RECORD, {}))
            name, data = record.get("client"), record.get("data")
            if name in clients and isinstance(data, bytes) and name not in answers:
                answers[str(name)] = data
        return answers

    def _connected(self, wanted: int) -> list[int]:
        """Return the nodes, once there are as many as wanted or the time is over."""
        begun = time.monotonic()
        while len(nodes := list(self._grid.get_node_ids())) < wanted and time.monotonic() - begun < self._timeout_s:
            time.sleep(_POLL_S)
        return nodes


def make_server_app(federate: Callable[..., Any]) -> Any:
    """Return what Flower runs at the server: all rounds of the recipe that `gra federate` named.

    Args:
        federate: `gra.training.federation.run.federate`, which imports this module.
    """
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator, unused-ignore]
    def main(grid: Any, context: Any) -> None:
        loaded = load_trained(str(context.run_config["recipe"]), FederationRecipe)
        output = Path(str(context.run_config["output"]))
        view = View(output / "log.jsonl")
        federate(loaded, output, transport=FlowerTransport(grid, loaded.recipe.timeout_s, view), view=view)

    return app


def make_client_app() -> Any:
    """Return what Flower runs at a client: one round on the rows of the client that its node names."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator, unused-ignore]
    def train(message: Any, context: Any) -> Any:
        name = str(context.node_config.get("client", ""))
        record: dict[str, Any] = {"client": name}
        try:
            loaded = load_trained(str(context.node_config["recipe"]), FederationRecipe)
            work = Path(str(context.node_config.get("work", f"runs/{loaded.recipe.name}/clients"))) / name
            record["data"] = FederatedClient(loaded, name, work).answer(message.content[_RECORD]["data"])
        except Exception:
            traceback.print_exc()  # only here: the sentence may repeat a row
        return Message(RecordDict({_RECORD: ConfigRecord(record)}), reply_to=message)

    return app


def write_app(loaded: Loaded[FederationRecipe], output: Path) -> Path:
    """Write the folder that Flower starts a federation from, beside the model folder.

    Flower sends it to all clients. So the recipe, which names files, is not in it.
    """
    folder = make_folder(output.parent / APP)
    recipe = output.parent / f"{APP}.yaml"  # not `federation.yaml`, which may be the user's own
    write_text(recipe, loaded.show() + "\n")
    places = {"recipe": str(recipe.resolve()), "output": str(output.resolve())}
    quoted = {key: json.dumps(place, ensure_ascii=False) for key, place in places.items()}  # TOML has no surrogates
    write_text(folder / "pyproject.toml", _PROJECT.format(**quoted))
    write_text(folder / "app.py", _CODE)
    return folder


def start(loaded: Loaded[FederationRecipe], output: Path, view: View) -> None:
    """Let the SuperLink run a federation, and wait for its end.

    Raises:
        EngineUnavailable: Flower is not installed, or the SuperLink does not take the run.
    """
    program = shutil.which("flwr", path=str(Path(sys.executable).parent)) or shutil.which("flwr")
    if program is None:
        raise EngineUnavailable(
            "`transport: flower` needs Flower, which is not installed: pip install 'gra-synthesis[federation]' in an "
            "environment without vLLM (docs/systems.md)"
        )
    app = write_app(loaded, output)
    command = [program, "run", str(app), *filter(None, [loaded.recipe.superlink]), "--stream"]
    view.note(f"▸ {shlex.join(command)}")
    if subprocess.run(command, stdout=sys.stderr, env=child_environment(), check=False).returncode:
        raise EngineUnavailable(
            f"Flower did not take the run (see above); start a SuperLink, then {shlex.join(command)}"
        )
