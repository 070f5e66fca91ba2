# Two commands set everything up: `make demo` and `make test`. Both build .venv when it is not there.

.PHONY: demo test slow check bench environment
METHOD ?= hubert
CORPUS ?= festvox-ru
SEED ?= 0
BENCH_MANIFEST ?= runs/demo/festvox-ru/pool.tsv

demo: environment
	PATH="$(CURDIR)/.venv/bin:$$PATH" METHOD=$(METHOD) CORPUS=$(CORPUS) SEED=$(SEED) recipes/demo/run.sh

test: environment
	.venv/bin/python -m pytest

slow: environment
	.venv/bin/python -m pytest -m slow

bench: environment
	.venv/bin/python recipes/benchmarks/short.py --manifest $(BENCH_MANIFEST)
	.venv/bin/python recipes/benchmarks/planning.py --rows 1000000 --repeats 1

check: environment
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

environment:
	@.ci/environment
