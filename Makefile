# make demo: set up, make a small scene, upscale it, compare with the truth.  make test: set up, check, test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean
.DEFAULT_GOAL := help
.PHONY: help
help:
	@sed -n 's/^# //p' Makefile

$(VENV)/ready: pyproject.toml constraints.txt geosr/methods/neighbourhood.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geosr needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py demo

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build dist demo *.egg-info
