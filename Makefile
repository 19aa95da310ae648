# `make quickstart` shows the whole story, `make test` checks everything, `make paper` runs all studies at quick
# scale: hours. What is finished is not run again. uv sets up .venv if it is there, pip otherwise.
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv)
VENV := $(if $(UV),uv venv --quiet --seed --allow-existing --python $(PYTHON),$(PYTHON) -m venv) .venv
INSTALL := $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/pip install --quiet)

STUDIES := methods-tuning methods tuning vrpo-vs-repa main convergence scaling reward-ablation estimator-ablation group-ablation controls \
	encoder-ablation depth-ablation

.PHONY: quickstart paper test lint docs dist lock clean

quickstart: .venv/installed
	$(BIN)/python -m bench.run --suite quickstart
	$(BIN)/python -m bench.report quickstart
	@echo "The report: results/quickstart/report/report.md and report.html"

paper: .venv/installed
	set -e; for suite in $(STUDIES); do $(BIN)/python -m bench.run --suite $$suite; done
	set -e; for run in results/main/*-seed100-*; do \
		$(BIN)/python -m bench.evaluate $$run --guidance-scale 1.0 1.5 2.0 3.0; $(BIN)/python -m bench.probe $$run; done
	set -e; for suite in $(STUDIES); do $(BIN)/python -m bench.report $$suite; done
	$(BIN)/python -m bench.report vrpo-vs-repa --reference repa --output results/vrpo-vs-repa/report/against-repa

test: .venv/installed-test
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation as a site, in build/site; a broken link or reference is an error.
docs: .venv/installed
	$(INSTALL) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Source distribution and wheel, in dist/. `.ci/smoke PYTHON` tries what is installed for another Python.
dist: .venv/installed
	$(INSTALL) build
	$(BIN)/python -m build --quiet

# The exact versions to which `pip install -r requirements.lock` sets up again. Versions that still fit stay.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		--extra all --extra test --generate-hashes --no-emit-index-url --no-annotate --output-file requirements.lock

.venv/installed: pyproject.toml
	$(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
