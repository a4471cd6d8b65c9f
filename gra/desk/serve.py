"""Serve the desk of a run on this machine until it is interrupted."""

from __future__ import annotations

import atexit
import errno
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gra.core.errors import DataError
from gra.desk.desk import Desk

ADDRESS = "127.0.0.1"


def serve(run: Path, port: int, announce: Callable[[str], None]) -> Desk:
    """Serve a run until Ctrl-C; returns the closed desk.

    Args:
        run: the run folder.
        port: the port; 0 takes a free one.
        announce: is called with the address of the page once the page can be opened.

    Raises:
        DataError: the folder is no run, or the port is taken.
    """
    import uvicorn

    from gra.desk.server import make_app, new_token

    desk = Desk(run)
    try:
        listener = _listen(port)
        with listener:
            token = new_token()
            config = uvicorn.Config(make_app(desk, token), log_level="error", access_log=False, lifespan="off",
                                    server_header=False, timeout_graceful_shutdown=2)  # fmt: skip
            desk.start()
            announce(f"http://{ADDRESS}:{listener.getsockname()[1]}/{token}/")
            with suppress(KeyboardInterrupt):  # uvicorn ends first, and then raises the signal again
                uvicorn.Server(config).run(sockets=[listener])
    finally:
        desk.close()
    return desk


def open_page(address: str) -> None:
    """Open the page in the browser, by a file that only this user can read.

    The address itself would stand on the browser's command line, where others on this machine see its token.
    """
    import webbrowser

    handle, name = tempfile.mkstemp(prefix="gra-desk-", suffix=".html")
    atexit.register(Path(name).unlink, missing_ok=True)
    with os.fdopen(handle, "w", encoding="utf-8") as page:
        page.write(f'<meta http-equiv="refresh" content="0; url={address}">')
    webbrowser.open(Path(name).as_uri())


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only.

    Raises:
        DataError: the port is taken or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise DataError(f"port {port} of {ADDRESS} {why}; choose another with --port, or leave it out") from None
    return listener
