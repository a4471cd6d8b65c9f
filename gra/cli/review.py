"""`gra review`: look at the candidates of a run in a browser, and decide about them."""

from __future__ import annotations

from typing import Annotated

import typer

from gra.cli.options import RunFolderPath, show_line


def review(
    run_folder: RunFolderPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port on 127.0.0.1; 0 takes a free one")] = 0,
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in your browser")] = False,
) -> None:
    """Serve a local page with a run's candidates, on which people keep, drop and edit them."""
    from gra.desk.serve import open_page, serve

    def announce(address: str) -> None:
        show_line(f"open {address}\nCtrl-C ends it; every decision is recorded at once")
        if open_browser:
            open_page(address)

    desk = serve(run_folder, port, announce)
    show_line(f"decisions are in {desk.ledger}")
