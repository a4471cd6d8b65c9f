"""Regenerate the hashed locks from pyproject.toml.

Run as: python requirements/lock.py   (needs `uv` on the PATH or in the environment)
        python requirements/lock.py --upgrade | --upgrade-package NAME   (any option of `uv pip compile`)

Versions stay as the locks have them as far as pyproject.toml allows, unless an upgrade is asked for.
Writes, without any index address:
  common.lock        everything but torch and the accelerator runtimes, with the CPU build of vLLM
  torch-index.lock   torch as a plain index serves it (the CUDA build and its runtime libraries)
  torch-cpu.lock     the CPU build of torch, for machines that can get it (written by hand below)
  cuda.lock          the complete environment for a CUDA machine, with the vLLM project's own wheel
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ACCELERATOR = re.compile(r"^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)(==|\[)")
NEVER = "sys_platform == 'never'"
HEADER = "# Made by requirements/lock.py from pyproject.toml. Install with --no-deps --require-hashes.\n"


def compile_lock(extra: str, *locks: str) -> list[str]:
    """Resolve pyproject.toml with one vLLM extra, near its present locks; one entry (with its hashes) per list item."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.lock")  # uv keeps the versions it finds in its output file
        whole.write_text("".join((HERE / name).read_text() for name in locks if (HERE / name).exists()))
        resolve(extra, whole)
        lines = whole.read_text().splitlines()
    entries: list[str] = []
    for line in lines:
        if line.startswith((" ", "\t")):
            entries[-1] += "\n" + line
        elif line and not line.startswith("#"):
            entries.append(line)
    return [entry for entry in entries if NEVER not in entry and "sys_platform == 'win32'" not in entry]


def resolve(extra: str, whole: Path) -> None:
    """Let uv rewrite the one file that stands for all locks of an environment."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--extra", extra, "--extra", "dev", "--universal",
               "--override", f"requirements/overrides-{extra}.txt", "--python-version", "3.11",
               "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "-q",
               "--output-file", str(whole), *sys.argv[1:]]  # fmt: skip
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv could not resolve the {extra} environment:\n{done.stderr}")


def write(name: str, entries: list[str]) -> None:
    """Write one lock file."""
    (HERE / name).write_text(HEADER + "\n".join(entries) + "\n")
    print(f"{name}: {len(entries)} packages")


def main() -> None:
    """Resolve both environments and split the CPU one at torch."""
    cpu = compile_lock("cpu", "common.lock", "torch-index.lock")
    write("common.lock", [entry for entry in cpu if not ACCELERATOR.match(entry)])
    write("torch-index.lock", [entry for entry in cpu if ACCELERATOR.match(entry)])
    write("cuda.lock", compile_lock("cuda", "cuda.lock"))


if __name__ == "__main__":
    main()
