# Two commands set everything up: `make demo` and `make test`. Both build .venv when it is not there.

.PHONY: demo test slow check environment
METHOD ?= hubert
CORPUS ?= festvox-ru
SEED ?= 0

demo: environment
	PATH="$(CURDIR)/.venv/bin:$$PATH" METHOD=$(METHOD) CORPUS=$(CORPUS) SEED=$(SEED) recipes/demo/run.sh

test: environment
	.venv/bin/python -m pytest

slow: environment
	.venv/bin/python -m pytest -m slow

check: environment
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

environment:
	@.ci/environment
