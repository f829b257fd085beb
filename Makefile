# make venv | test | test-all | test-without-fcntl | check | docs | demo | bench | fuzz | clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
# As many processes as there are processors, four at most: each holds torch and Keras (about 1.5 GiB). A file's tests stay together.
PARALLEL ?= -n logical --maxprocesses=4 --dist loadfile
PYTEST_ARGS ?=
FUZZ_ARGS ?=

.DEFAULT_GOAL := test
.PHONY: venv test test-all test-without-fcntl check docs demo bench fuzz clean

venv: $(STAMP)

# Made anew only when pyproject.toml is younger than the stamp; an existing environment is brought up to date, not thrown away.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "regraft needs Python 3.11 or later; found " + sys.version.split()[0] + ". Set one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[all,dev]'
	@touch $@

test: venv
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-all: venv
	$(BIN)/python -m pytest -m "" $(PYTEST_ARGS)

# As on Windows, in every process: all fast tests but those of Unix's own locks.
test-without-fcntl: venv
	PYTHONPATH=$(CURDIR)/tests/without_fcntl $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not flock" $(PYTEST_ARGS)

check: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/check.py
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=8 src/regraft

# The documentation as a site, in site/: open site/index.html. Needs no network once the environment is there.
docs: venv
	$(BIN)/mkdocs build --strict

demo: venv
	$(BIN)/regraft demo

bench: venv
	$(BIN)/python benchmarks/run.py

# Goes on where it was stopped; FUZZ_ARGS="--cases 1000 CSV PNG" for less.
fuzz: venv
	$(BIN)/python -m tests.fuzz.run $(FUZZ_ARGS)

clean:
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	find $(wildcard src tests scripts benchmarks examples) -name __pycache__ -type d -prune -exec rm -rf {} +
