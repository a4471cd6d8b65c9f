"""Chromium without a window, driven by its own debugging protocol, for the tests of the desk's page."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_KEYS = {"Escape": 27, "Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9}


class Browser:
    """One Chromium process; `open` makes tabs."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self._loop = asyncio.new_event_loop()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
                     "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--window-size=1280,800"]  # fmt: skip
        self._process = subprocess.Popen(
            [CHROMIUM, *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        wanted = folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (wanted.is_file() and len(wanted.read_text().splitlines()) == 2):
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        port, path = wanted.read_text().splitlines()
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._session = self._run(self._new_session())
        self._socket = self._run(self._session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0))

    @staticmethod
    async def _new_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def _run(self, task: Any) -> Any:
        return self._loop.run_until_complete(task)

    def send(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values} | ({"sessionId": session} if session else {})
        return self._run(self._exchange(number, message))

    async def _exchange(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json(message)
        while True:
            received = json.loads((await asyncio.wait_for(self._socket.receive(), 60)).data)
            if received.get("id") == number:
                assert "error" not in received, received["error"]
                return received["result"]
            self.events.append(received)

    def open(self, address: str) -> Tab:
        """Open an address in a new tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable", session)
        tab = Tab(self, session)
        tab.go(address)
        tab.wait("location.href !== 'about:blank' && document.readyState === 'complete'", 60)
        return tab

    def close(self) -> None:
        """End the process."""
        self._run(self._socket.close())
        self._run(self._session.close())
        self._loop.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Tab:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **values)

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def run(self, expression: str) -> Any:
        """Return the value of an expression in the page, as JSON."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true, and return its value."""
        until = time.monotonic() + seconds
        while not (value := self.run(expression)):
            assert time.monotonic() < until, f"not true within {seconds:g} s: {expression}\n{self.text()[:3000]}"
            time.sleep(0.05)
        return value

    def text(self, selector: str = "body") -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def press(self, key: str, *, control: bool = False) -> None:
        """Press and release a key as a person does."""
        code = _KEYS.get(key, ord(key.upper()[0]))
        values: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 if control else 0}
        text = {} if key in _KEYS and key != "Enter" else {"text": "\r" if key == "Enter" else key}
        self.send("Input.dispatchKeyEvent", type="keyDown", **values, **({} if control else text))
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def messages(self) -> list[str]:
        """Return what the page complained about: exceptions, refused loads, errors in the console."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            values = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(values["exceptionDetails"].get("exception", values)))
            elif event["method"] == "Log.entryAdded" and values["entry"]["level"] == "error":
                found.append(values["entry"]["text"])
        return found

    def addresses(self) -> set[str]:
        """Return every address that the page asked for."""
        return {
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event["method"] == "Network.requestWillBeSent" and event.get("sessionId") == self._session
        }
