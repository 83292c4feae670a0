# Everything a newcomer needs; README.md gives the plain venv and pip commands behind each target.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
ENV := source conf/env.sh && export PATH="$(CURDIR)/$(BIN):$$PATH" &&
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off --constraint constraints.txt

DAGSTER_PORT ?= 3000
MLFLOW_PORT ?= 5000
CODE ?= 3115

.DEFAULT_GOAL := help
.PHONY: help demo test slow faults constraints lint docs ui mlflow bench

help:
	@echo "make demo     install, then build everything on the bundled sample: minutes on any laptop"
	@echo "make test     install what the tests need, then run them: minutes"
	@echo "make slow     the tests that take longer: whole runs, kills, a server"
	@echo "make faults   kills, full disks, damaged files and bad input: an hour or two; prints what was survived"
	@echo "make lint     style, types and import rules"
	@echo "make docs     the manual, into docs/_build/html"
	@echo "make ui       Dagster at http://127.0.0.1:$(DAGSTER_PORT)"
	@echo "make mlflow   MLflow at http://127.0.0.1:$(MLFLOW_PORT)"
	@echo "make constraints  constraints.txt from what is installed here"
	@echo "make bench    the figures of BENCHMARKS.md"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: what is installed is not installed again until pyproject.toml changes.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes a few minutes."
	@$(PIP) --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with what tests and manual need; the first time takes a few minutes."
	@$(PIP) --quiet --editable '.[dev]'
	@touch $(VENV)/installed $@

# Warnings of libraries about themselves would drown the progress of the run.
demo: $(VENV)/installed
	@$(ENV) PYTHONWARNINGS=ignore dagster job execute --module-name $$DAGSTER_MODULE_NAME --job full_pipeline
	@$(ENV) naics nearest $(CODE) -k 5
	@$(ENV) PYTHONWARNINGS=ignore naics search -k 3 "painting houses and hanging wallpaper" \
		"we grow tomatoes and herbs under glass for local restaurants" \
		"homemade bread, cakes and pastries, sold from our own shop" "family diner, waiters at the tables"
	@$(ENV) data=$$(naics config data_dir) && echo && \
		echo "Report          $$data/reports/index.html" && \
		echo "Dagster         make ui, then http://127.0.0.1:$(DAGSTER_PORT)" && \
		echo "MLflow          make mlflow, then http://127.0.0.1:$(MLFLOW_PORT)" && \
		echo "Another code    $(BIN)/naics nearest 5415" && \
		echo "Your own words  $(BIN)/naics search 'plumbing and heating contractor'"

test: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -m slow

faults: $(VENV)/installed-dev
	@NAICS_FAULTS=$${NAICS_FAULTS:-1} $(BIN)/python -m pytest -n0 -s -q naics_pipeline_tests/faults

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without a network, and a warning is an error. The pages describe the built-in curriculum, whatever the environment says.
docs: $(VENV)/installed-dev
	@unset $${!NAICS_*}; $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

ui: $(VENV)/installed
	@$(ENV) dagster dev --host 127.0.0.1 --port $(DAGSTER_PORT)

mlflow: $(VENV)/installed
	@$(ENV) runs=$$(python -m naics_pipeline.resources) && \
		mlflow server --host 127.0.0.1 --port $(MLFLOW_PORT) --backend-store-uri "sqlite:///$$runs/mlflow.db"

# After the tests have passed with what is installed.
constraints:
	@$(BIN)/python .ci/constraints.py > constraints.new && mv constraints.new constraints.txt

bench: $(VENV)/installed-dev
	@$(ENV) $(BIN)/python -m benchmarks
