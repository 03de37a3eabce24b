# Every target sets up .venv by itself, once, and again when what it depends on changes. See CONTRIBUTING.md.

.PHONY: help demo test quick quality lint format clean
.DEFAULT_GOAL := help
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

BIN := .venv/bin
READY := .venv/.ready
# One thread each: more would only wait for each other. Three workers for two cores, since many a test waits for a process that
# it started. A file is one worker's, so that what its tests share is made once; in the order of names, which begins with the
# longest (end_to_end).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder -q
SCRIPTS := tests/benchmarks/test_scripts_run.py
SEEDS := 0 1 2

help:
	@echo "make demo     the default run: data, sft, reward, ppo, eval on a small model made from scratch"
	@echo "make test     lint, types, import contracts, all tests, the wheel check (what CI runs)"
	@echo "make quick    lint, types and the fast tests"
	@echo "make quality  the default run with seeds $(SEEDS), held against the promised figures; do the benchmarks run?"
	@echo "make format   format the code and mend what ruff can mend"
	@echo "make clean    remove .venv, caches and build results; outputs/ stays"

$(READY): pyproject.toml constraints.txt hatch_build.py pipeline/alignpipe/__init__.py
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "setting up .venv with $$("$$python" --version)"; "$$python" -m venv .venv; break; \
	    fi; \
	done; \
	test -x $(BIN)/python || { echo "no Python >= 3.11 found; name one with make PYTHON=<path>" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/alignpipe

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) tests --ignore $(SCRIPTS)

quick: lint
	$(PYTEST) tests --ignore tests/end_to_end --ignore $(SCRIPTS) -m "not slow"

quality: $(READY)
	$(BIN)/python tests/quality/check.py $(SEEDS)
	$(PYTEST) $(SCRIPTS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
