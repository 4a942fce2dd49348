# make setup | check | test | laws | laws-avx2 | fuzz | zoo | demo | bench-NAME | docs | nightly | nightly-NAME | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# The build backend comes from constraints.txt too, so nothing is installed unpinned.
INSTALL := $(PIP) --no-build-isolation -e

PYTEST := $(BIN)/pytest -n 2 --dist loadgroup
# What takes long, or is run in more than one way; each part can be run alone, as make nightly-NAME.
NIGHTLY := $(addprefix nightly-,section fuzz avx2 heap docs extras zoo)
# Nothing of this is meant to end soon; a part that hangs still ends.
PATIENT := -o timeout=3000 -o faulthandler_timeout=3300
# Inputs that make fuzz draws for each reader.
COUNT ?= 20000
# Of what is drawn at random; another day, another seed. Again as it was: make nightly-fuzz SEED=…
SEED := $(shell date +%Y%m%d)

.PHONY: setup check test laws laws-avx2 fuzz fuzz-again zoo demo docs nightly $(NIGHTLY) clean
.DEFAULT_GOAL := setup

# Tests run in two processes; one thread each keeps them from fighting over two cores.
test laws laws-avx2 fuzz fuzz-again zoo docs $(NIGHTLY): export OMP_NUM_THREADS := 1
# As on a processor without AVX-512.
laws-avx2 nightly-avx2 nightly-heap: export ONEDNN_MAX_CPU_ISA := AVX2
laws-avx2 nightly-avx2 nightly-heap: export ATEN_CPU_CAPABILITY := avx2

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
	$(PYTEST) -m "not nightly"

laws: $(STAMPS)/dev
	$(PYTEST) tests/laws

laws-avx2: $(STAMPS)/dev
	$(PYTEST) tests/laws

# A part that fails stops no other.
nightly: $(STAMPS)/dev
	$(MAKE) --keep-going $(NIGHTLY)

# Real architectures of each library, and whatever else make test leaves out.
nightly-section: $(STAMPS)/dev
	$(PYTEST) -m nightly $(PATIENT)

# The laws with ten times the examples, and others every day.
nightly-fuzz: $(STAMPS)/dev
	PRUNUS_TEST_EXAMPLES=10 PRUNUS_TEST_SEED=$(SEED) $(PYTEST) tests/laws --hypothesis-seed=$(SEED) $(PATIENT)

nightly-avx2: $(STAMPS)/dev
	$(PYTEST) -m "not nightly" $(PATIENT)

# Training under an allocator that looks for what was written past an end.
nightly-heap: $(STAMPS)/dev
	LD_PRELOAD=libc_malloc_debug.so.0 GLIBC_TUNABLES=glibc.malloc.check=3 $(PYTEST) $(PATIENT) \
		tests/unit/test_memory_format.py tests/unit/test_finetune.py tests/unit/test_workload_glyphs_training.py \
		tests/unit/test_pruner_trainings.py tests/unit/test_recovery.py

nightly-docs: docs

# Each extra alone, in an environment of its own.
nightly-extras:
	$(PYTHON) .ci/extras.py

# All architectures, an hour on two quiet cores; what docs/zoo.md says is not touched.
nightly-zoo: $(STAMPS)/dev
	PYTHONPATH=benchmarks $(BIN)/python -m zoo --again --log runs/zoo-nightly.jsonl

# Takes an hour on two quiet cores; a run that was stopped goes on where it was. Start over: rm runs/zoo.jsonl
zoo: $(STAMPS)/dev
	PYTHONPATH=benchmarks $(BIN)/python -m zoo --docs docs

$(STAMPS)/bench: $(STAMPS)/dev
	$(INSTALL) '.[report,train,test,dev,text,onnx,bench]'
	@touch $@

bench-%: $(STAMPS)/bench
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/bench_$*.py $(ARGS)

# Every reader of files, an hour on two cores; what failed is kept in runs/fuzz and read again by make fuzz-again.
fuzz: $(STAMPS)/dev
	PYTHONPATH=benchmarks $(BIN)/python -m fuzz --count $(COUNT) --seed $(SEED) --docs docs/bench $(ARGS)

fuzz-again: $(STAMPS)/dev
	PYTHONPATH=benchmarks $(BIN)/python -m fuzz --again

docs: $(STAMPS)/dev
	$(BIN)/pytest tests/docs

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage dist build prunus-demo prunus-runs
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
