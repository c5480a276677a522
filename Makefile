# `make setup` once in a virtual environment, then `make check test` before each commit.
PYTHON ?= python

.PHONY: setup check test docs site bench

setup:  ## babyllm with all that its tests and hooks need
	$(PYTHON) -m pip install -c constraints.txt -e ".[test]"
	@if command -v pre-commit >/dev/null; then pre-commit install; else echo "No pre-commit here: run make check."; fi

check:  ## Format, lint, types, words
	ruff format --check .
	ruff check .
	mypy
	$(PYTHON) -m pytest -q tests/project/test_words.py

test:  ## The whole suite, on all cores, at most four
	$(PYTHON) -m pytest -n auto --maxprocesses=4 --dist loadfile

docs:  ## Pages drawn from data
	$(PYTHON) -m benchmarks.history
	$(PYTHON) -m benchmarks.planning.machine_table
	$(PYTHON) -m benchmarks.concept_pictures

site:  ## The documentation in both languages, in build/site
	$(PYTHON) -m mkdocs build

bench:  ## All benchmarks, whose figures are recorded
	$(PYTHON) -m benchmarks.run
