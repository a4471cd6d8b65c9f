"""Run the sandbox's supervisor inside bubblewrap, where it is installed and its namespaces are the only ones to be had.

Some systems forbid user namespaces to every program but a few, and `bwrap` is one of these. It gives the supervisor a
file system with only the Python installation and the job's folder. Processes and network are its own as well. The
layers of `confine.py` are applied inside as always.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gra.sandbox.confine import readable_paths

NAME = "bubblewrap"
INNER_PARENT = 1  # number of the process that starts the supervisor, as seen from inside


def find() -> str | None:
    """Return the path of the program, or None where it is not installed."""
    return shutil.which("bwrap")


def wrap(program: str, command: Sequence[str], folder: Path, package: Path) -> list[str]:
    """Return the command that runs another command inside.

    Args:
        program: Path of `bwrap`.
        command: An interpreter with its arguments.
        folder: The job's folder, the only place that can be written to.
        package: Folder of the package `gra`.
    """
    interpreter = os.path.realpath(command[0])
    # Not root's number inside: without privileges the sandbox could not pass that one on to its own namespaces.
    options = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-all", "--cap-drop", "ALL"]
    options += ["--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    for path in dict.fromkeys((interpreter, os.path.realpath(os.path.dirname(os.__file__)), *readable_paths())):
        options += ["--ro-bind-try", path, path]
    options += ["--ro-bind", str(package), str(package), "--bind", str(folder), str(folder), "--chdir", str(folder)]
    return [program, *options, "--", interpreter, *command[1:]]
