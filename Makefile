# Two commands do all the set-up:  make sweep   (the quickstart sweep)   make test   (everything that CI checks)
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
PYTHON ?=

.PHONY: help sweep test lint nightly ui clean
help:
	@echo "make sweep    install into .venv and run the quickstart sweep (about two minutes on two cores)"
	@echo "make ui       look at its runs in the MLflow UI"
	@echo "make test     install into .venv and run the checks and the tests"
	@echo "make nightly  the slow tests as well"

sweep: .venv/sweep
	$(BIN)/alignray run quickstart

ui: .venv/sweep
	$(BIN)/alignray ui

# Two tests at a time, a file's together: they share what the first of them sets up. A thread each, or they get in each other's way.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest

test: lint
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

nightly: test
	$(PYTEST) -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/sweep: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[examples]"
	@touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[examples,numerai,postgres,dev]"
	@touch $@ .venv/sweep

# The first Python that will do: the one named by PYTHON, or one of the usual names.
.venv/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    "$$python" -m venv .venv && touch $@ && exit 0; \
	    echo "make: $$python cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2; exit 1; \
	  fi; \
	done; \
	echo "make: alignray needs Python 3.11, 3.12 or 3.13 and found none; install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

clean:
	rm -rf .venv
