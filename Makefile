# `make` alone lists what there is. Every target sets up what it needs; a second run reuses it.

PYTHON ?= python3
BIN := .venv/bin
MODEL := models/flights/manifest.json
PORT ?= 8888

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: setup  ## set up everything and open JupyterLab on the first lesson
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --port=$(PORT) $(LAB_FLAGS) \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

test: setup  ## set up everything and run every test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

demo: setup  ## the whole story without a browser: train, stubs, serve, predict, a latency table and its plot
	$(BIN)/python -m pred_server.lab.demo

setup: .venv/ready $(MODEL)  ## only set up: .venv, pinned dependencies, the trained model

stubs: .venv/ready  ## generate the stubs in generated/ from proto/
	$(BIN)/pred-server stubs

notebooks: setup  ## run every lesson in notebooks/scripts and write it, with outputs, to notebooks/ (ONLY=00 for one)
	$(BIN)/python notebooks/build.py $(ONLY)

plots: setup  ## measure again and draw the published plots (data/results, data/figures)
	$(BIN)/python -m pred_server.lab.publish

lint: .venv/ready  ## ruff, mypy, and buf on the contract: style, and nothing that breaks the article's clients
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking proto --against tests/article

lock: .venv/ready  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-header --no-annotate \
	  --output-file requirements.lock pyproject.toml

clean:  ## remove what the other targets made, the virtual environment included
	rm -rf .venv models bin build latency.png .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv module does not work here (on Debian: apt install python3-venv)"; exit 1; }
	@echo "installing the pinned dependencies into .venv; this takes a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(MODEL): .venv/ready pred_server/model.py data/flights.parquet
	@$(BIN)/pred-server train --out $(@D)

.PHONY: help lab test demo setup stubs notebooks plots lint lock clean
