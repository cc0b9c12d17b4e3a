# make demo: set up, make a small scene, upscale it, compare with the truth.  make test: set up, check, test.
# make test-browser: the report's page in Chromium.  make test-qgis: outputs in QGIS.  Both take Debian's packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check test-browser test-qgis clean
.DEFAULT_GOAL := help
.PHONY: help
help:
	@sed -n 's/^# //p' Makefile

$(VENV)/ready: pyproject.toml constraints.txt $(wildcard geosr/methods/*.[ch])
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

$(VENV)/browser: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	@touch $@

test-browser: $(VENV)/browser
	@.ci/need 'command -v chromium || command -v chromium-browser || command -v google-chrome' chromium
	$(BIN)/python -m pytest tests/browser/page_in_chromium.py
	@echo "screenshots: build/report.png build/report-detail.png build/report-narrow.png"

QGIS_PYTHON := /usr/bin/python3

test-qgis: $(VENV)/ready
	@.ci/need '$(QGIS_PYTHON) -c "import qgis.core"' python3-qgis qgis-providers
	rm -rf build/qgis
	$(BIN)/python tests/qgis/make_outputs.py build/qgis
	QT_QPA_PLATFORM=offscreen $(QGIS_PYTHON) tests/qgis/check_in_qgis.py build/qgis

clean:
	rm -rf $(VENV) build dist demo *.egg-info
