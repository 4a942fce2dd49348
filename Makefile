# make setup | check | test | laws | zoo | demo | bench-NAME | docs | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# The build backend comes from constraints.txt too, so nothing is installed unpinned.
INSTALL := $(PIP) --no-build-isolation -e

.PHONY: setup check test laws zoo demo docs clean
.DEFAULT_GOAL := setup

# Tests run in two processes; one thread each keeps them from fighting over two cores.
test laws zoo docs: export OMP_NUM_THREADS := 1

setup: $(STAMPS)/dev

$(STAMPS)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) hatchling editables
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: $(STAMPS)/torch pyproject.toml
	$(INSTALL) '.[report,train]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/torch pyproject.toml examples/plugin/pyproject.toml
	$(INSTALL) '.[report,train,test,dev,text,onnx]'
	$(PIP) --no-deps torchvision==0.28.0 timm==1.0.31
	$(PIP) --no-deps --no-build-isolation -e examples/plugin
	@touch $@ $(STAMPS)/demo

demo: $(STAMPS)/demo
	$(BIN)/prunus demo

check: $(STAMPS)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMPS)/dev
	$(BIN)/pytest -n 2 --dist loadgroup

laws: $(STAMPS)/dev
	$(BIN)/pytest -n 2 --dist loadgroup tests/laws

# Takes an hour on two quiet cores; a run that was stopped goes on where it was. Start over: rm runs/zoo.jsonl
zoo: $(STAMPS)/dev
	PYTHONPATH=benchmarks $(BIN)/python -m zoo --docs docs

$(STAMPS)/bench: $(STAMPS)/dev
	$(INSTALL) '.[report,train,test,dev,text,onnx,bench]'
	@touch $@

bench-%: $(STAMPS)/bench
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/bench_$*.py

docs: $(STAMPS)/dev
	$(BIN)/pytest tests/docs

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage dist build prunus-demo prunus-runs
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
