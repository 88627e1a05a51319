# make            install into .venv, run the default benchmark, print the leaderboard and where the report is
# make test       the linters and the quick tests
# make lint       the linters alone: ruff check, ruff format --check, mypy, snakefmt --check
# make format     mend what the linters can mend
# make test-long  the tests that take minutes
# make test-slurm the workflow on a real SLURM, installed for it (root on Debian)
# make gpu-check  all that needs a GPU: tests, times of the kernels, CamVid trained; pages in results/gpu-check
# make clean      remove what the benchmark wrote (not .venv)
#
# PYTHON=python3.12 installs with another Python; CORES=4 uses fewer cores than there are.

PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := benchmark
.PHONY: benchmark check-machine test test-slurm test-long lint format gpu-check clean

benchmark: .venv/installed
	snakemake --cores $(CORES) --keep-going --quiet rules; status=$$?; \
		cat results/leaderboard.md; exit $$status

check-machine:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "structseg: $(PYTHON) is missing: install Python 3.11 or newer, or say make PYTHON=<path>" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "structseg: $$($(PYTHON) --version) is too old: install Python 3.11 or newer, or say make PYTHON=<path>" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "structseg: $(PYTHON) has no venv module: install it (on Debian: apt-get install python3-venv)" >&2; exit 2; }
	@command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || \
		{ echo "structseg: no C++ compiler, which the dense CRF package needs: install one (on Debian: apt-get install g++ python3-dev)" >&2; exit 2; }

.venv/installed: requirements.txt | check-machine
	@echo "Installing into .venv: some minutes, 6 GB of disk"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	ln -sf ../../workflow/structseg $(BIN)/structseg
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

test: lint
	python -m pytest -n auto --dist loadfile

lint: .venv/installed-dev
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check --compact-diff .

format: .venv/installed-dev
	ruff check --fix .
	ruff format .
	snakefmt .

test-slurm: .venv/installed-dev
	python -m pytest -m long tests/workflow/test_slurm.py

test-long: .venv/installed-dev
	python -m pytest -m long

gpu-check:
	workflow/gpu_check.sh

clean:
	find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +
