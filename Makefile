# Two commands on a fresh machine: `make demo` and `make test`. Both make the environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
# Each of the processes that share the tests computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test quick check format docs

help:
	@echo 'make demo    the whole pipeline, offline, on the bundled sample and base model'
	@echo 'make quick   the tests that take under 2 seconds each, in a minute or two'
	@echo 'make test    all tests'
	@echo 'make check   linter, formatter, types, tests'
	@echo 'make docs    write docs/commands.md from --help, docs/modules.md from docstrings'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpt2chat needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

# In demo/, or demo-2/, demo-3/ ... if that exists: it may hold what you made there since.
demo: DEMO := $(shell folder=demo; n=1; while [ -e $$folder ]; do n=$$((n+1)); folder=demo-$$n; done; echo $$folder)
demo: $(READY)
	mkdir $(DEMO)
	cd $(DEMO) && $(BIN)/gpt2chat prepare --sample
	cd $(DEMO) && $(BIN)/gpt2chat sft --model starter --epochs 1 --evals 1 --eval-samples 128
	cd $(DEMO) && $(BIN)/gpt2chat orpo --lr 2e-4 --beta 0.3 --token-lr 10 --evals 1 --eval-samples 77
	cd $(DEMO) && $(BIN)/gpt2chat eval --ppl --against runs/sft --against starter --limit 250 --generations 4 --precision bf16
	cd $(DEMO) && $(BIN)/gpt2chat chat --seed 0 --prompt 'What can I cook with potatoes?'
	@echo 'All of it is in $(DEMO)/.'

quick: $(READY)
	$(PYTEST) -m 'not gpu and not slow'

test: $(READY)
	$(PYTEST) -m 'not gpu'

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(PYTEST) -m 'not gpu'

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY)
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/modules.py
