"""The desk's page in Chromium: by keyboard, in two tabs, with hostile rows, on a narrow screen, while a run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, Tab
from desk_runs import CANDIDATES, finished_run, write_dataset, write_recipe, write_verdicts
from reported_run import HOSTILE

from gra.core.vocabulary import HumanVerdict
from gra.runs.decisions import read_decisions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "gra.cli.main", "review", str(run)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert "decisions are in" in server.stdout.read()


def ready(tab: Tab, rows: int) -> None:
    tab.wait(f"document.querySelectorAll('#list button').length === {rows}", 60)


def named(tab: Tab, name: str) -> None:
    tab.run("document.getElementById('name').value = ''; document.getElementById('name').focus()")
    tab.type(name)
    tab.press("Enter")


def recorded(tab: Tab, what: str) -> None:
    tab.wait(f"document.getElementById('said').innerText === {what!r}")


def test_person_decides_by_keyboard_alone(browser: Browser, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with served(run) as address:
        tab = browser.open(address + "#order=disagreement&state=accepted")
        ready(tab, 16)
        tab.press("k")
        assert "No candidate is open" in tab.text("#hint")
        named(tab, "ann")
        tab.press("ArrowDown")
        tab.wait("document.getElementById('title').innerText === 'r1-000012'")
        assert "mean 7.00, spread 2.50, disputed" in tab.text("#body")
        held = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'd', repeat: true, bubbles: true}))"
        assert not tab.run(f"{held}, state.busy")
        tab.press("d")
        recorded(tab, "r1-000012: drop recorded")
        tab.wait("document.getElementById('title').innerText === 'r1-000016'")
        assert (
            tab.run("document.querySelector('#body pre + *, #body section:nth-child(2) pre').innerText.length")
            > 900_000
        )
        assert tab.run("document.getElementById('detail').scrollTop = 300") == 300
        tab.press("s")
        recorded(tab, "r1-000016: skip recorded")
        tab.wait("document.getElementById('title').innerText !== 'r1-000016' && !state.busy")
        assert tab.run("document.getElementById('detail').scrollTop") == 0
        title, response = tab.text("#title"), "document.querySelector('#edit textarea[name=response]').value"
        for before in ("Response", "A better"):  # the second time, the text that Esc left is there again
            tab.press("e")
            assert tab.run(response).startswith(before)
            tab.run(f"{response} = ''")
            tab.type("A better answer 🦉")
            tab.press("Escape")
            assert "unsaved text" in tab.text("#said")
        tab.press("e")
        tab.press("Enter", control=True)
        recorded(tab, f"{title}: edit recorded")
        tab.wait("!state.busy")
        tab.press("u")
        recorded(tab, f"{title}: edit undone")
        tab.wait(f"document.getElementById('title').innerText === {title!r} && !state.busy")
        tab.press("e")
        assert tab.run(response).startswith("Response")
        tab.run(f"{response} = ''")
        tab.type("The best answer 🦉")
        tab.press("Enter", control=True)
        recorded(tab, f"{title}: edit recorded")
        tab.wait("!state.busy")
        tab.run(f"open({title!r})")
        tab.wait("document.getElementById('body').innerText.includes('The best answer')")
        tab.press("k")
        recorded(tab, f"{title}: keep of the edited text recorded")
        tab.wait("document.getElementById('progress').innerText.endsWith('2 decided, 15 rows after decisions')")
        last = tab.run("state.rows.at(-1).id")
        tab.run(f"location.hash = 'order=disagreement&state=accepted&id={last}'")
        tab.wait(f"document.getElementById('title').innerText === {last!r} && !state.busy")
        tab.press("s")
        recorded(tab, f"{last}: skip recorded. That was the last row of this list")
        assert tab.text("#title") == last
        tab.run("window.earlier = true")
        tab.send("Page.reload")
        tab.wait("!window.earlier && document.querySelector('select[name=order]')?.value === 'disagreement'")
        ready(tab, 16)
        tab.wait("document.querySelector('#list .drop')?.innerText === 'drop (ann)'")
        assert tab.messages() == []
        assert all(asked.startswith(address) for asked in tab.addresses())
    found = read_decisions(run)
    assert [d.verdict for d in found["r1-000012"]] == [HumanVerdict.DROP]
    assert [d.response for d in found[title] if d.verdict is HumanVerdict.EDIT][1:] == ["The best answer 🦉"] * 2


def test_filters_search_and_reset(browser: Browser, tmp_path: Path) -> None:
    with served(finished_run(tmp_path / "run")) as address:
        tab = browser.open(address)
        ready(tab, len(CANDIDATES))
        tab.press("/")
        tab.type("praise tides")
        ready(tab, 1)
        assert tab.run("document.querySelector('#list b').innerText") == "r1-000018"
        tab.press("Escape")
        tab.run("document.querySelector('#filters button[type=reset]').click()")
        ready(tab, len(CANDIDATES))
        tab.press("g")
        tab.wait("document.getElementById('precision').innerText.includes('Choose the order')")
        tab.run("document.getElementById('gate').focus()")
        tab.press("?")
        assert "undo" in tab.text("#help")


def test_another_address_brings_its_own_filters_and_mixes_no_texts(browser: Browser, tmp_path: Path) -> None:
    with served(finished_run(tmp_path / "run")) as address:
        tab = browser.open(address + "#state=rejected&id=r1-000013")
        tab.wait("document.getElementById('title').innerText === 'r1-000013'", 60)
        tab.press("e")
        tab.type("Not saved. ")
        tab.run("location.hash = 'id=r1-000001'")
        tab.wait("document.getElementById('title').innerText === 'r1-000001'")
        ready(tab, len(CANDIDATES))
        assert "Your unsaved text of r1-000013 is kept" in tab.text("#said")
        tab.press("e")
        assert "Not saved" not in tab.run("document.querySelector('#edit textarea[name=response]').value")
        assert tab.messages() == []


def test_hostile_rows_are_text(browser: Browser, tmp_path: Path) -> None:
    with served(finished_run(tmp_path / "run")) as address:
        tab = browser.open(address + "#id=r1-000013")
        tab.wait("document.getElementById('title').innerText === 'r1-000013'", 60)
        tab.wait(f"document.querySelectorAll('#list button').length === {len(CANDIDATES)}")
        assert HOSTILE in tab.text("#body")
        assert tab.run("document.querySelectorAll('#body script, #body img, #list script, #list img').length") == 0
        odd = browser.open(address + "#id=r1-000014")
        odd.wait("document.getElementById('title').innerText === 'r1-000014'", 60)
        assert "\x1b" not in odd.text()
        assert "\u202e" not in odd.text()
        assert tab.messages() == odd.messages() == []
        wrong = browser.open(address.rstrip("/") + "x/")
        wrong.wait("document.body?.innerText.includes('The token in the address is wrong')")


def test_two_tabs_show_the_same(browser: Browser, tmp_path: Path) -> None:
    with served(finished_run(tmp_path / "run")) as address:
        one, two = browser.open(address), browser.open(address + "#id=r1-000000")
        for tab in (one, two):
            ready(tab, len(CANDIDATES))
        two.wait("document.getElementById('title').innerText === 'r1-000000'")
        named(two, "bob")
        two.press("k")
        recorded(two, "r1-000000: keep recorded")
        one.wait("document.querySelector('[data-id=r1-000000] b.keep')?.innerText === 'keep (bob)'")


def test_rows_appear_while_a_run_goes_on(browser: Browser, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_recipe(run)
    write_verdicts(run, CANDIDATES[:3])
    with served(run) as address:
        tab = browser.open(address)
        ready(tab, 3)
        assert "under way or stopped" in tab.text("#progress")
        write_verdicts(run, CANDIDATES[3:6])
        ready(tab, 6)
        write_dataset(run, CANDIDATES)
        ready(tab, len(CANDIDATES))
        tab.wait("!document.getElementById('progress').innerText.includes('under way')")


def test_narrow_screen_shows_one_part_at_a_time(browser: Browser, tmp_path: Path) -> None:
    with served(finished_run(tmp_path / "run")) as address:
        tab = browser.open(address)
        tab.resize(380, 700)
        ready(tab, len(CANDIDATES))
        assert tab.run("document.documentElement.scrollWidth <= 380")
        tab.press("ArrowDown")
        tab.wait("getComputedStyle(document.getElementById('left')).display === 'none'")
        tab.run("document.getElementById('next').click()")
        tab.wait("document.getElementById('title').innerText === 'r1-000001'")
        assert tab.run("document.documentElement.scrollWidth <= 380")
        bars = "document.querySelector('{}').getBoundingClientRect()"
        tab.run("document.querySelector('main').scrollTop = 200")
        assert tab.run(f"{bars.format('nav')}.top >= {bars.format('header')}.bottom")
        tab.run("document.getElementById('back').click()")
        assert tab.run("getComputedStyle(document.getElementById('left')).display") == "block"
