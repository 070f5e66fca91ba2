# Two commands set everything up: `make demo` and `make test`. Both install what they need when it is not there.
# PYTHON=python3.13 chooses the interpreter, STACK=newest the versions to test with (.ci/venv.sh).

.PHONY: demo test slow check docs bench gpu environment matrix mutants
METHOD ?= hubert
CORPUS ?= festvox-ru
SEED ?= 0
BENCH_MANIFEST ?= runs/demo/festvox-ru/pool.tsv
BENCH_MODEL ?= runs/demo/festvox-ru-hubert-seed0/pretrained
CELLS ?=
MUTANTS ?= 400
MINUTES ?= 600
MUTATED ?= data model tasks units train asr
export PYTHON STACK

demo: environment
	PATH="$(CURDIR)/.venv/bin:$$PATH" METHOD=$(METHOD) CORPUS=$(CORPUS) SEED=$(SEED) recipes/demo/run.sh

test:
	@.ci/suite

slow:
	@.ci/suite -m slow

matrix:
	@.ci/matrix $(CELLS)

mutants: environment
	.ci/mutants --mutants $(MUTANTS) --seed $(SEED) --minutes $(MINUTES) $(MUTATED)

bench: environment
	.venv/bin/python recipes/benchmarks/short.py --manifest $(BENCH_MANIFEST) --model $(BENCH_MODEL)
	.venv/bin/python recipes/benchmarks/planning.py --rows 1000000 --repeats 1

gpu: environment
	PYTHON="$(CURDIR)/.venv/bin/python" recipes/gpu/run.sh

check: environment
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	git ls-files -z | xargs -0 .venv/bin/python -m codespell_lib

docs:
	@.ci/docs

environment:
	@.ci/environment
