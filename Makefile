# Two commands: `make quickstart` shows the whole story, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint clean

quickstart: .venv/installed
	$(BIN)/python -m bench.run --suite quickstart
	$(BIN)/python -m bench.report quickstart
	@echo "The report: results/quickstart/report/report.md and report.html"

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
