# Everything here starts from a machine that has only Python >= 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BACKENDS := jax tensorflow torch
DEMO_BACKEND ?= jax

# Pinned: other or unpinned builds of torch can bring gigabytes of CUDA libraries along.
TORCH ?= torch==2.13.0
# The same TensorFlow without its GPU libraries; `make TENSORFLOW=tensorflow` where there is none.
TENSORFLOW ?= tensorflow-cpu>=2.18

PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet
WITH_jax := -e '.[jax]'
WITH_tensorflow := '$(TENSORFLOW)' -e .
WITH_torch := '$(TORCH)' -e .
WITH_lint := -e '.[lint]'
WITH_docs := -e '.[docs]'

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-jax test-tensorflow test-torch check-long check-long-jax \
	check-long-tensorflow check-long-torch lint bench docs check-docs dist
.NOTPARALLEL:

$(VENV)/.created:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp for each backend and each tool set, so that each target installs no more than it uses.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	$(PIP_INSTALL) $(WITH_$*)
	@touch $@

$(VENV)/.installed: pyproject.toml $(BACKENDS:%=$(VENV)/.installed-%)
	$(PIP_INSTALL) -e '.[test]'
	$(PIP_INSTALL) -e '.[pesq]' || echo 'pesq needs a C compiler: its tests are skipped.'
	@touch $@

demo: $(VENV)/.installed-$(DEMO_BACKEND)
	$(BIN)/keras-meanflow train digits --backend $(DEMO_BACKEND)
	@ls runs/digits/*.png | sed 's/^/picture: /'

# Compiling takes most of the time and one core: a worker for each core halves it.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest --durations=15 -n $(WORKERS) --maxprocesses 8 --dist worksteal

test: $(VENV)/.installed
	$(MAKE) --keep-going $(BACKENDS:%=test-%)

test-jax test-tensorflow test-torch: test-%: $(VENV)/.installed
	KERAS_BACKEND=$* $(PYTEST) -m "not long"

check-long: $(VENV)/.installed $(VENV)/.installed-docs
	$(MAKE) --keep-going $(BACKENDS:%=check-long-%)

check-long-jax check-long-tensorflow check-long-torch: check-long-%: $(VENV)/.installed
	KERAS_BACKEND=$* $(PYTEST) -m long

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Those that need nothing but themselves; the others say in their first lines what they need.
BENCHMARKS ?= step_time metrics latents splus

bench: $(VENV)/.installed
	set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The checks of the site in a browser: the system's Chromium.
check-docs: $(VENV)/.installed-docs $(VENV)/.installed-torch
	$(PIP_INSTALL) -e '.[test]'
	KERAS_BACKEND=torch $(BIN)/python -m pytest tests/test_site.py -m long

# A wheel and a source archive, which carry no results; what is in them is checked.
dist: $(VENV)/.created
	$(PIP_INSTALL) build twine
	rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*
	! tar -tzf dist/*.tar.gz | grep -E 'benchmarks/results/|/runs/'
