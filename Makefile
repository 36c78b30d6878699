# Every chore of the project. `make` alone lists the targets; each does its own set-up first.

PYTHON ?= python3
PY := .venv/bin/python
SEEDS ?= 200

.DEFAULT_GOAL := help
.PHONY: help setup run test check e2e interop bench sim fuzz scene docs lock format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## everything the project needs, into .venv (quick when nothing changed)
	@$(PYTHON) scripts/setup.py

run: setup  ## a development server at http://localhost:8008, on SQLite, with a sample community
	@.venv/bin/chaos serve --dev

test: setup  ## every test that needs no browser, on SQLite and PostgreSQL (ONLY="unit tests/api/test_x.py")
	@$(PY) -m tests.runner $(ONLY)

check: setup  ## format, lint, types, architecture rules and fast tests, in under a minute
	@$(PY) -m scripts.check

format: setup  ## rewrite the sources in the house format
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format .

e2e: setup  ## what a browser sees (headless Chromium, installed by apt-get where we are root)
	@$(PY) -m scripts.e2e

interop: setup  ## against a real Synapse in an environment of its own
	@$(PY) -m scripts.interop

bench: setup  ## our figures beside those of Synapse, in one run (ARGS="--help")
	@$(PY) -m tests.bench $(ARGS)

sim: setup  ## simulated days with faults, from seeds (SEED=first SEEDS=how many)
	@.venv/bin/chaos sim $(if $(SEED),--seed $(SEED)) --seeds $(SEEDS)

scene: setup  ## one scripted conversation (NAME=two_users_talk), or all
	@SCENE=$(NAME) $(PY) -m tests.runner scenes

fuzz: setup  ## hostile input into every parser (ARGS="--help")
	@$(PY) -m tests.fuzz $(ARGS)

docs: setup  ## regenerate the generated pages of docs/
	@$(PY) -m scripts.docs

lock: setup  ## resolve requirements/*.txt anew, with hashes
	@$(PY) -m scripts.lock

clean:  ## remove .venv, caches and whatever tests and builds have left (./data stays)
	rm -rf .venv .cache .hypothesis _trial_temp* build dist *.egg-info
