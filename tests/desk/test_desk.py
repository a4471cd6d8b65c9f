"""The desk over HTTP: what it shows, what it records, and what it refuses."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk_runs import CANDIDATES, NAME, finished_run, read_desk, write_dataset, write_recipe, write_verdicts
from reported_run import HOSTILE, reviewed
from starlette.testclient import TestClient
from synthesised import command

from gra.core.types import State
from gra.data.export import read_candidates
from gra.desk.desk import Desk
from gra.desk.server import make_app
from gra.runs.decisions import apply_decisions, read_decisions

BASE = "http://127.0.0.1:8000/token/"


def client(desk: Desk) -> TestClient:
    return TestClient(make_app(desk, "token"), base_url=BASE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("desk") / "run")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with read_desk(finished_run(tmp_path / "run")) as made:
        yield made


def ids(web: TestClient, **query: str) -> list[str]:
    return [row["id"] for row in web.get("api/rows", params=query).json()["rows"]]


def send(web: TestClient, candidate: str, verdict: str, name: str = "ann", **more: str) -> Any:
    subject = web.get("api/candidate", params={"id": candidate}).json().get("subject", "")
    return web.post("api/decide", json={"name": name, "candidate": candidate, "verdict": verdict, "subject": subject,
                                        **more})  # fmt: skip


def test_list_is_filtered_and_ordered(whole: Path) -> None:
    with read_desk(whole) as desk:
        web = client(desk)
        assert len(ids(web)) == len(CANDIDATES)
        assert ids(web, state="rejected") == ["r1-000013"]
        assert ids(web, disputed="1") == ["r1-000012"]
        assert ids(web, order="disagreement")[0] == "r1-000012"
        assert ids(web, text="big") == ["r1-000014"]
        assert ids(web, kind="words_at_most") == ["r1-000018"]
        assert ids(web, low="8", high="8", state="accepted") == ["r1-000016", "r1-000018"]
        assert web.get("api/rows", params={"order": "worst"}).json() == {"error": "there is no order worst"}
        assert web.get("api/rows", params={"low": "much"}).status_code == 400
        assert web.get("api/rows", params={"offset": "-1"}).status_code == 400
        facets = web.get("api/status").json()["facets"]
        assert facets["state"] == {"accepted": 16, "rejected": 1, "duplicate": 1, "failed": 1}


def test_candidate_page_has_everything_and_steers_nothing(whole: Path) -> None:
    with read_desk(whole) as desk:
        web = client(desk)
        found = web.get("api/candidate", params={"id": "r1-000012"}).json()
        titles = [section["title"] for section in found["sections"]]
        assert titles == ["Reviews", "Checks of the instruction", "Origin"]
        assert found["sections"][0]["note"] == "mean 7.00, spread 2.50, disputed"
        odd = web.get("api/candidate", params={"id": "r1-000014"}).json()
        assert "\x1b" not in odd["instruction"]
        assert "\u202e" not in odd["instruction"]
        assert odd["raw"] == {"instruction": CANDIDATES[14].instruction, "response": CANDIDATES[14].response}
        assert web.get("api/candidate", params={"id": "r1-000013"}).json()["response"] == HOSTILE
        assert len(web.get("api/candidate", params={"id": "r1-000016"}).json()["response"]) == 1_000_000
        assert web.get("api/candidate", params={"id": "none"}).status_code == 404


def test_decision_is_recorded_and_undone(desk: Desk) -> None:
    web, row = client(desk), CANDIDATES[1]
    assert send(web, row.id, "drop").json()["reviewer"] == "human:ann"
    assert ids(web, decided="drop") == [row.id]
    assert apply_decisions(row, read_decisions(desk.run)).state is State.REJECTED
    assert send(web, row.id, "undo").status_code == 200
    assert ids(web, decided="decided") == []
    assert apply_decisions(row, read_decisions(desk.run)) == row
    assert send(web, row.id, "undo").json() == {"error": "human:ann has decided nothing about it"}


def test_edit_is_recorded_with_its_texts(desk: Desk) -> None:
    web, row = client(desk), CANDIDATES[13]
    assert send(web, row.id, "edit", instruction=" ", response="x").status_code == 409
    assert send(web, row.id, "edit", instruction="Ask.", response="Say\n<b>it</b> 🦉").status_code == 200
    found = apply_decisions(row, read_decisions(desk.run))
    assert (found.state, found.response) == (State.ACCEPTED, "Say\n<b>it</b> 🦉")
    send(web, row.id, "drop", "bob")  # a drop says nothing about texts
    seen = web.get("api/candidate", params={"id": row.id}).json()
    assert seen["edited"]["raw"] == {"instruction": "Ask.", "response": "Say\n<b>it</b> 🦉"}
    assert seen["decisions"][0]["response"] == seen["edited"]["response"]
    made = [(each["reviewer"], each["verdict"]) for each in seen["last"]]
    assert made == [("human:ann", "edit"), ("human:bob", "drop")]
    assert web.get("api/rows", params={"state": "rejected"}).json()["rows"][0]["response"] == "Say <b>it</b> 🦉"


def test_edit_without_a_change_is_a_keep(desk: Desk) -> None:
    web, row = client(desk), CANDIDATES[14]
    response = row.response.replace("\r\n", "\n")  # as a browser's text field has it
    assert send(web, row.id, "edit", instruction=row.instruction, response=response).json()["verdict"] == "keep"
    assert web.get("api/candidate", params={"id": row.id}).json()["edited"] is None
    send(web, "r1-000001", "skip")
    assert [r["id"] for r in web.get("api/rows").json()["rows"] if r["skipped"]] == ["r1-000001"]
    for name, verdict, rows in (("r1-000002", "drop", 15), ("r1-000013", "keep", 16), ("r1-000013", "undo", 15)):
        send(web, name, verdict)
        assert web.get("api/status").json()["rows"] == rows


def test_several_desks_see_each_other(desk: Desk) -> None:
    with read_desk(desk.run) as other:
        send(client(desk), "r1-000001", "keep", "ann")
        send(client(other), "r1-000001", "drop", "bob")
        desk.read_decisions()
        for each in (desk, other):
            assert ids(client(each), decided="drop") == ["r1-000001"]
    found = apply_decisions(CANDIDATES[1], read_decisions(desk.run))
    assert [d.reviewer for d in found.decisions] == ["human:ann", "human:bob"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"name": "a b"}, 409, "give a name"),
        ({"candidate": "none"}, 409, "there is no candidate"),
        ({"subject": "earlier"}, 409, "have changed"),
        ({"verdict": "sell"}, 400, "cannot be read"),
        ({"name": 1}, 400, "cannot be read"),
        ({"candidate": "r1-000017"}, 409, "have changed"),
    ],
)
def test_senseless_decision_is_refused(whole: Path, change: dict[str, Any], status: int, sentence: str) -> None:
    with read_desk(whole) as desk:
        web = client(desk)
        subject = web.get("api/candidate", params={"id": "r1-000001"}).json()["subject"]
        body = {"name": "ann", "candidate": "r1-000001", "verdict": "keep", "subject": subject} | change
        answer = web.post("api/decide", json=body)
        assert answer.status_code == status
        assert sentence in answer.json()["error"]
        assert web.post("api/decide", content=b"{").status_code == 415
        assert send(web, "r1-000017", "keep").json() == {"error": "a failed candidate is no row; skip it"}
        assert read_decisions(whole) == {}


def test_only_the_whole_address_reaches_anything(whole: Path) -> None:
    with read_desk(whole) as desk:
        web = client(desk)
        for path in ("", "desk.js", "decide.js", "estimate.js", "desk.css", "icon.svg"):
            answer = web.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "no-referrer"
        for wrong in ("/", "/wrong/", "/wrong/api/rows", "/tokenx/"):
            answer = web.get(f"http://127.0.0.1:8000{wrong}")
            assert answer.status_code == 403
            assert answer.text == "The token in the address is wrong; copy the whole address that `gra review` printed."
        assert web.get("http://evil.example:8000/token/").status_code == 421
        assert web.get("/token/../../etc/passwd").status_code in (403, 404)


def test_run_under_way_is_followed_to_its_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_recipe(run)
    old = [reviewed(n, State.ACCEPTED, "of another recipe", (9.0, 9.0)) for n in range(30)]
    write_verdicts(run, old, "earlier")
    write_verdicts(run, CANDIDATES[:3], "now")
    with read_desk(run) as desk:
        web = client(desk)
        assert ids(web) == [c.id for c in CANDIDATES[:3]]
        assert web.get("api/status").json()["finished"] is False
        send(web, "r1-000001", "keep")
        write_verdicts(run, CANDIDATES[3:6], "now")
        desk._source._next = 0.0  # type: ignore[attr-defined]
        desk.refresh()
        assert ids(web) == [c.id for c in CANDIDATES[:6]]
        assert web.get("api/candidate", params={"id": "r1-000005"}).json()["score"] == CANDIDATES[5].mean
        write_dataset(run, CANDIDATES)
        desk.refresh()
        assert web.get("api/status").json()["finished"] is True
        assert len(ids(web)) == len(CANDIDATES)
        assert ids(web, decided="keep") == ["r1-000001"]
    assert read_candidates(run / "lineage.parquet") == CANDIDATES


def test_damage_is_one_sentence_on_the_page(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with read_desk(run) as desk:
        send(client(desk), "r1-000001", "keep")
        with sqlite3.connect(run / "ledger.sqlite") as db:
            db.execute("UPDATE decisions SET verdict = 'drop'")
    with (
        pytest.raises(Exception, match="decision about r1-000001 of `desk-run` is not what was written"),
        read_desk(run),
    ):
        pass


def broken(kind: str, folder: Path) -> list[str]:
    run = folder / "run"
    if kind == "missing":
        return [str(run)]
    if kind == "no run":
        run.mkdir()
        return [str(run)]
    finished_run(run)
    if kind == "no ledger":
        (run / "ledger.sqlite").unlink()
    if kind == "ledger elsewhere":
        (run / "ledger.sqlite").unlink()
        (run / "recipe.resolved.yaml").write_text('{"name": "desk-run", "ledger": "gone/answers.sqlite"}')
    if kind == "damaged ledger":
        (run / "ledger.sqlite").write_bytes(b"noise" * 9999)
    if kind == "damaged lineage":
        (run / "lineage.parquet").write_bytes(b"PAR1")
    if kind == "linked ledger":
        (run / "ledger.sqlite").rename(folder / "elsewhere.sqlite")
        (run / "ledger.sqlite").symlink_to(folder / "elsewhere.sqlite")
    if kind == "experiment":
        (folder / "arms").mkdir()
        run.rename(folder / "arms" / "gra")
        return [str(folder)]
    return [str(run)]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "is not a folder"),
        ("no run", "is not the run folder of a synthesis"),
        ("no ledger", "has no ledger, in which decisions are recorded"),
        ("ledger elsewhere", "its recipe names gone/answers.sqlite, which is not there"),
        ("damaged ledger", "is damaged or not a ledger"),
        ("damaged lineage", "lineage.parquet cannot be read"),
        ("linked ledger", "is a link"),
        ("experiment", "name one of its arms: "),
        ("taken port", "is taken; choose another with --port"),
    ],
)
def test_bad_input_is_one_sentence(
    kind: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = broken(kind, tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert command("review", *arguments, "--port", str(port)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert said.startswith("error: ")


def test_names_are_those_of_the_recipe(whole: Path) -> None:
    with read_desk(whole) as desk:
        assert (desk.name, desk.ledger) == (NAME, whole / "ledger.sqlite")
