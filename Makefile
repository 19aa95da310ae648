# `make quickstart` shows the whole story, `make test` checks everything, `make paper` runs all studies at quick
# scale: hours. What is finished is not run again.
PYTHON ?= python3
BIN := .venv/bin

STUDIES := tuning vrpo-vs-repa main convergence scaling reward-ablation estimator-ablation group-ablation controls \
	encoder-ablation depth-ablation

.PHONY: quickstart paper test lint clean

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

test: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

clean:
	rm -rf .venv build *.egg-info
