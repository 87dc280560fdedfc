# make demo: install, ingest the sample corpus, ask four questions.   make test: the default tests.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install demo test lint check docs lock bench-embed bench-ingest bench-sync bench-ask bench-api bench-glm \
	bench-glm-batch bench-glm-quantize bench-glm-linear bench-glm-full bench-glm-gpu clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | column -t -s '|'

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(None if (3, 11) <= v < (3, 14) else "Found Python %d.%d, expected 3.11 to 3.13. \
	Name one: make PYTHON=python3.12 $(or $(MAKECMDGOALS),demo)" % v[:2])'
	@echo "Installing the locked versions into .venv; this takes some minutes the first time."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: .venv/installed  ## Create .venv and install the locked versions

demo: .venv/installed  ## Ingest the sample corpus and ask it four questions
	@$(BIN)/python samples/demo.py

test: .venv/installed  ## Run the default test suite (offline, CPU)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: .venv/installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: .venv/installed  ## Build a wheel, install it elsewhere, import every module
	$(BIN)/python .ci/check_wheel.py

docs: .venv/installed  ## Write docs/settings.md and docs/cli.md afresh
	$(BIN)/python .ci/write_docs.py

lock:  ## Write requirements.lock afresh from pyproject.toml
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 '.[dev]'
	.venv-lock/bin/pip freeze --exclude youju | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

bench-embed: .venv/installed  ## CPU seconds per chunk, OpenVINO against sentence-transformers
	$(BIN)/python -m bench.embed

bench-ingest: .venv/installed  ## `youju ingest` against bare embedding and a LangChain pipeline
	$(BIN)/python -m bench.ingest

bench-sync: .venv/installed  ## Seconds and peak memory of `youju sync` of 100,000 unchanged files
	$(BIN)/python -m bench.sync

bench-ask: .venv/installed  ## Seconds and peak memory of a cold `youju ask`
	$(BIN)/python -m bench.ask

bench-api: .venv/installed  ## The server under load: 1 and 32 clients, overload, first byte
	$(BIN)/python -m bench.api

bench-glm: .venv/installed  ## Peak memory of converting and loading ChatGLM3 (4 GB of disk)
	$(BIN)/python -m bench.glm

bench-glm-batch: .venv/installed  ## Many requests at once: our engine beside transformers' own ways
	$(BIN)/python -m bench.glm_batch

bench-glm-quantize: .venv/installed  ## Quantising ChatGLM3: size, memory, error (6 GB of disk, 8 of memory)
	$(BIN)/python -m bench.glm_quantize

bench-glm-linear: .venv/installed  ## One matrix of ChatGLM3-6B: bfloat16 and 8 or 4 bits on this CPU
	$(BIN)/python -m bench.glm_linear

bench-glm-full: .venv/installed  ## ChatGLM3-6B's full shape in 4 bits on this CPU (4 GB of disk, 10 of memory)
	$(BIN)/python -m bench.glm_full

bench-glm-gpu: .venv/installed  ## ChatGLM3-6B's full shape on a GPU
	$(BIN)/python -m bench.glm_gpu

clean:  ## Remove what was built
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
