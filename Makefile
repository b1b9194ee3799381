# make run: the main job, on real data.    make test: tests, lint, types.    make data: full data sets for TFDS.
# make evidence: measure every claim again.    make published: reproduce the published tables (hours).
# make leaderboard BOARD=split_mnist: fill what is missing of a board, or of all (hours).
# make notebooks: the two forms of each notebook are one text again.    make docs: the site, in docs/_build/html.
# make soak: kill and damage real runs, KILLS=100 of them, and compare their ends with those of runs left alone.
# make peer: avalanche-lib in an environment of its own, for the suite `peer` of experiments.speed.
# All set up what they need once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := .venv-docs
# Python compiles the modules that are imported; all of them at once would take 20 seconds.
PIP := python -m pip install --no-compile --quiet --disable-pip-version-check
RUNS := runs/split_fashion_mnist
METHODS := naive ewc:online er derpp gacil joint
KILLS ?= 100
BOARD ?= all
DATA_DIR ?= $(HOME)/tensorflow_datasets

.PHONY: run test lint types data evidence published leaderboard notebooks docs peer soak clean

run: $(READY)
	@for name in $(METHODS); do \
	  config=configs/continual/$${name%%:*}.py; case $$name in *:*) config=$$config:$${name#*:};; esac; \
	  $(BIN)/python -m experiments.continual --config=$$config --workdir=$(RUNS)/$$(echo $$name | tr : _) --seeds=5 --quiet \
	    || exit $$?; \
	done
	@$(BIN)/python -m experiments.report --workdir=$(RUNS) --out=report.html

test: lint types
	$(BIN)/python -m pytest --numprocesses=2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --project .pyrightconfig.json --pythonpath $(BIN)/python

data: $(READY)
	$(BIN)/python -m experiments.data --name=all --data_dir=$(DATA_DIR)

evidence: $(READY)
	$(BIN)/python -m experiments.evidence --all --data_dir=$(DATA_DIR)

published: $(READY)
	$(BIN)/python -m experiments.published --table=split_mnist --data_dir=$(DATA_DIR)
	$(BIN)/python -m experiments.published --table=split_mnist_online --data_dir=$(DATA_DIR)
	$(BIN)/python -m experiments.published --table=permuted_mnist --seeds=3 --data_dir=$(DATA_DIR)

leaderboard: $(READY)
	$(BIN)/python -m experiments.leaderboard --board=$(BOARD) --missing --jobs=2 --data_dir=$(DATA_DIR)

notebooks: $(READY)
	$(BIN)/jupytext --sync notebooks/*.py

docs: $(DOCS)/.ready
	$(DOCS)/bin/python -m sphinx -W --keep-going -n -q -d docs/_build/doctrees docs docs/_build/html

soak: $(READY)
	$(BIN)/python -m experiments.soak --kills=$(KILLS) --report

peer: $(READY)
	@echo "setting up .venv-peer, once; torch is to be a build for the CPU"
	@$(PYTHON) -m venv .venv-peer
	@.venv-peer/bin/$(PIP) --no-deps --requirement requirements-peer.lock

$(READY): requirements.lock setup.py
	@echo "setting up $(VENV), once: about a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/$(PIP) --no-deps --requirement requirements.lock
	@$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS)/.ready: requirements.lock requirements-docs.lock setup.py
	@echo "setting up $(DOCS), once: about a minute"
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/$(PIP) --no-deps --requirement requirements.lock --requirement requirements-docs.lock
	@$(DOCS)/bin/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS) docs/_build build dist *.egg-info
