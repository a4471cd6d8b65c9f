"""`gra push` and `--push-to-hub`, against a small server that speaks the part of the hub's protocol that is needed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from synthesised import command, synthesise


class _Hub(ThreadingHTTPServer):
    """Takes datasets from whoever has the token `good`; `files` holds what was pushed, `private` how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.cards: list[str] = []
        self.commits: list[dict[str, Any]] = []
        self.refuses = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if self.headers.get("Authorization") != "Bearer good":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/whoami-v2":
            self._send(200, {"type": "user", "name": "me", "orgs": []})
        elif path == "/api/datasets/org/name" and hub.private is not None:
            self._send(200, {"id": "org/name", "private": hub.private, "siblings": [], "sha": "c" * 40})
        else:
            self._send(404, {"error": path})

    def do_POST(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create" and hub.refuses:
            self._send(hub.refuses, {"error": "no"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            assert (asked["organization"], asked["name"], asked["type"]) == ("org", "name", "dataset")
            status = 200 if hub.private is None else 409
            if hub.private is None:
                hub.private = asked.get("visibility") == "private" or asked.get("private") is True
            self._send(status, {"url": f"{hub.url}/datasets/org/name"})
        elif path == "/api/validate-yaml":
            hub.cards.append(json.loads(body)["content"])
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/datasets/org/name/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._send(200, {"files": files})
        elif path == "/api/datasets/org/name/commit/main":
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                else:
                    hub.commits.append(line["value"])
            self._send(200, {"commitUrl": f"{hub.url}/datasets/org/name/commit/{'d' * 40}", "commitOid": "d" * 40})
        else:
            self._send(404, {"error": path})

    def _send(self, status: int, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub() -> Iterator[_Hub]:
    with _Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("push") / "one")


def gra(*arguments: str, hub: str, token: str | None = "good", **more: str) -> subprocess.CompletedProcess[str]:
    """The command line in a new process: the hub's library reads its settings when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    with tempfile.TemporaryDirectory() as home:
        environment |= {"HF_ENDPOINT": hub, "HF_HOME": home, "PYTHONPATH": str(ROOT)}
        environment |= ({"HF_TOKEN": token} if token else {}) | more
        return subprocess.run(
            [sys.executable, "-m", "gra.cli.main", *arguments],
            env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip


def test_a_dataset_goes_up_whole_and_private(hub: _Hub, made: Path) -> None:
    done = gra("push", str(made), "org/name", hub=hub.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/datasets/org/name"
    assert hub.private is True
    assert hub.files == {file.name: file.read_bytes() for file in (made / "dataset").iterdir()}
    assert len(hub.files) == 6
    rows = json.loads((made / "manifest.json").read_text())["synthesis"]["states"]["accepted"]
    assert [commit["summary"] for commit in hub.commits] == [f"{rows} rows"]
    assert "config_name: preferences" in hub.cards[0]
    again = gra("push", str(made), "org/name", hub=hub.url)
    assert again.returncode == 0, again.stderr


def test_public_only_when_asked(hub: _Hub, made: Path) -> None:
    assert gra("push", str(made), "org/name", "--public", hub=hub.url).returncode == 0
    assert hub.private is False
    hub.files.clear()
    refused = gra("push", str(made), "org/name", hub=hub.url)
    assert refused.returncode == 2
    assert "is public; say --public" in refused.stderr
    assert hub.files == {}


@pytest.mark.parametrize(
    ("token", "status", "more", "words"),
    [
        (None, 0, {}, "you are not logged in"),
        ("stale", 0, {}, "does not know your token"),
        ("good", 403, {}, "does not let you write to org/name"),
        ("good", 418, {}, "answered with status 418"),
        ("good", 0, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("good", 0, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_the_hub_may_say_is_one_sentence(
    hub: _Hub, made: Path, token: str | None, status: int, more: dict[str, str], words: str
) -> None:
    hub.refuses = status
    done = gra("push", str(made), "org/name", hub=hub.url, token=token, **more)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert hub.files == {}


def test_synthesis_asks_the_hub_before_anything_is_spent(hub: _Hub, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "smoke" / "vanilla.yaml"
    asked = ("synthesize", str(recipe), "tracking.wandb=off", "--runs", str(tmp_path), "--push-to-hub", "org/name")
    unknown = gra(*asked, hub=hub.url, token="stale")
    assert (unknown.returncode, "does not know your token" in unknown.stderr) == (4, True)
    assert not list(tmp_path.rglob("*.parquet"))
    done = gra(*asked, hub=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.url}/datasets/org/name" in done.stderr
    assert set(hub.files) == {"README.md", *(f"{p}.parquet" for p in ("train", "contested", "preferences", "lineage"))}


def test_changed_data_and_other_folders_are_not_pushed(made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import shutil

    from gra.runs import push

    monkeypatch.setattr(push, "check_hub", lambda name, public: push.Destination(name, public, "me"))
    shutil.copytree(made, tmp_path / "exp" / "arms" / "gra")
    assert command("push", str(tmp_path / "exp"), "org/name") == 2
    assert "push one of its arms" in capsys.readouterr().err
    (tmp_path / "exp" / "arms" / "gra" / "dataset" / "train.parquet").write_bytes(b"mine")
    assert command("push", str(tmp_path / "exp" / "arms" / "gra"), "org/name") == 5
    assert "train.parquet is not what the run wrote" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "words"), [("name", "write OWNER/name"), ("a/b/c", "cannot be a dataset's name")])
def test_names_that_are_none(made: Path, capsys, name: str, words: str) -> None:
    assert command("push", str(made), name) == 2
    assert words in capsys.readouterr().err
