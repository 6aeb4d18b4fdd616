# Two commands do everything on a bare machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMPS := $(VENV)/.stamps

.PHONY: help demo test docs tutorial gpu-benchmark lint types imports pytest format clean
help:
	@echo "make demo   install, simulate a scene, fuse it, score it (result in demo/)"
	@echo "make test   install with test tools; lint, types, import contract, tests"
	@echo "make docs   build the documentation site into build/site; links are checked"
	@echo "make tutorial run the tutorial and the docstrings' examples on the demo"
	@echo "make gpu-benchmark every part of the GPU's benchmark on the CPU, in two minutes at most"
	@echo "make format put the code into its canonical form"
	@echo "make clean  remove the environment and the demo"

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(STAMPS)/dev: $(STAMPS)/run
	$(PIP) install --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

demo: $(STAMPS)/run
	$(BIN)/hsfuse demo demo

docs: $(STAMPS)/dev
	$(BIN)/mkdocs build --quiet --strict

# The demonstration that is there is used.
tutorial: $(STAMPS)/dev
	test -f demo/products.json || $(BIN)/hsfuse demo demo
	$(BIN)/python tests/run_tutorial.py demo

# Small sizes: it says whether the benchmark runs, not how fast anything is.
gpu-benchmark: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu.py --device cpu --minutes 2 --work build/gpu-benchmark

test: lint types imports pytest

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMPS)/dev
	$(BIN)/mypy

imports: $(STAMPS)/dev
	$(BIN)/lint-imports

# As many tests at once as there are cores, a file's tests by one process: they share what they have prepared.
pytest: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build/site .mypy_cache .ruff_cache .import_linter_cache .hypothesis
