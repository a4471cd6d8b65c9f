"""Train students one after another in one process; `gra run` starts it on a CPU.

    python -m gra.cli.train_several

Each line of standard input is the command line of one training, as a JSON list. Each line of standard output is the
exit code of one. The process ends with its standard input, or after a training that did not end with 0.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from gra.cli.train import main as train
from gra.core.errors import ExitCode


def main() -> None:
    """Train every student that is named on standard input, until one fails."""
    # What libraries print must not be read as a reply, and what they read must not be a command.
    commands, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        for line in commands:
            code = _code_of(json.loads(line))
            print(code, file=replies, flush=True)
            if code:
                sys.exit(code)
            gc.collect()  # a trainer and its model refer to each other
    except KeyboardInterrupt:  # between two trainings
        sys.exit(int(ExitCode.INTERRUPTED))
    except BrokenPipeError:  # the process that asked is gone
        sys.exit(1)


def _code_of(arguments: list[str]) -> int:
    try:
        train(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
