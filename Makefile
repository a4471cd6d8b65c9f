# The two commands of the README. Each makes the environment (.venv) if it is not there.
.PHONY: setup quickstart test test-slow lint types check lock clean
PY := .venv/bin/python
# The tests mostly wait, so two processes more than there are cores. A file stays in one process (tests/conftest.py).
PARALLEL := -n $(shell echo $$(( $$(nproc) + 2 ))) --dist loadfile --no-loadscope-reorder
# Compiled tests are kept, also where the environment says otherwise: each worker compiles them all.
PYTEST := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest $(PARALLEL)

setup:            ## make .venv from the hashed locks
	@requirements/install.sh

quickstart: setup ## the main job on embedded defaults: synthesise, train, evaluate, compare, report
	@.venv/bin/gra run recipes/quickstart.yaml $(ARGS)

test: setup       ## every test but the slow ones
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup  ## the slow ones too
	@$(PYTEST) $(ARGS)

lint: setup
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: setup
	@.venv/bin/mypy

check: lint types test

lock:             ## regenerate requirements/*.lock from pyproject.toml (needs uv)
	python3 requirements/lock.py

clean:
	rm -rf .venv runs
