"""Models from the hub, against a small server that speaks the part of its protocol that is needed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from catalog_world import model_files

_COMMIT = "c" * 40
_ASK = """
import json, sys
from dataclasses import asdict
from gra.core.errors import GraError
from gra.models.catalog import cached, resolve
try:
    model = asdict(resolve(sys.argv[1]))
    print(json.dumps({**{k: str(v) for k, v in model.items()}, "cached": cached(sys.argv[1])}))
except GraError as error:
    print(json.dumps({"error": str(error), "code": error.exit_code}))
"""


class _Hub(ThreadingHTTPServer):
    """Serves the repository org/model; `files` can be changed, `asked` lists what was requested."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {**model_files(), "onnx/model.onnx": b"not needed", "modeling.py": b"raise SystemExit"}
        self.gated = False
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output clean."""

    def _answer(self, *, body: bool) -> None:
        path, hub = self.path.partition("?")[0], self.server
        hub.asked.append(f"{self.command} {path}")
        if path == "/api/models":
            self._send(200, b"[]", {}, body)
        elif path.startswith("/api/models/org/model/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in hub.files.items()
            ]
            self._send(200, json.dumps(tree).encode(), {}, body)
        elif path.startswith("/api/models/org/model"):
            facts = {"id": "org/model", "sha": _COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}
            self._send(200, json.dumps(facts).encode(), {}, body)
        elif path.startswith("/org/model/resolve/") and hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}, body)
        elif path.startswith("/org/model/resolve/") and (name := path.split("/", 5)[5]) in hub.files:
            content = hub.files[name]
            etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": _COMMIT}
            self._send(200, content, etag, body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[_Hub]:
    with _Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _resolve(name: str, hub: _Hub, folder: Path, **settings: str) -> dict[str, Any]:
    """Resolve in a new process: the hub's library reads its settings when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "GRA_CACHE": str(folder / "gra"), **settings}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, name], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_download_then_cache(hub: _Hub, tmp_path: Path) -> None:
    first = _resolve("org/model", hub, tmp_path)
    assert (first["origin"], first["identity"], first["parameters"]) == ("hub", f"hub:org/model@{_COMMIT}", "3")
    assert first["cached"]
    assert sorted(p.name for p in Path(first["path"]).iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    hub.asked.clear()
    second = _resolve("org/model", hub, tmp_path, HF_HUB_OFFLINE="1")
    assert (second["origin"], second["identity"]) == ("cache", first["identity"])
    assert hub.asked == []


def test_a_model_without_weights_is_no_model(hub: _Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    answer = _resolve("org/model", hub, tmp_path)
    assert answer["code"] == 4
    assert "has no model.safetensors" in answer["error"]


def test_gated_and_unknown(hub: _Hub, tmp_path: Path) -> None:
    hub.gated = True
    answer = _resolve("org/model", hub, tmp_path)
    assert answer["code"] == 4
    assert f"org/model is gated: accept its terms on {hub.url}/org/model" in answer["error"]
    assert "the hub has no model org/other" in _resolve("org/other", hub, tmp_path)["error"]
