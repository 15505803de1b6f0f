# Everything is meant to be run from a fresh checkout: each target sets up what it needs.

VENV := .venv
BIN := $(VENV)/bin
# What ruff checks.
SOURCES := qmpfleece tests benchmarks iotests setup.py
# One more than the two processors of CI: some tests wait now and then.
WORKERS ?= 3
# What is tested of the compiled programs, and how much of it by make test.
COMPILED_TESTS ?= tests/oracle tests/test_end_to_end.py
COMPILED_FEW := $(addprefix tests/,test_end_to_end.py \
	$(addprefix oracle/test_,cbw.py nbd_wire.py statistics.py backup.py qcow2_events.py))
# Extra arguments for pytest, e.g. make test ARGS="-k bitmap"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-compiled lint soak compiled bench clean tools

help: ## show this list
	@echo 'usage: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.dev tools ## install everything for make run and make test, run nothing

run: $(VENV)/.run ## the demonstration: fleece a disk while it is written to (DISK=path for your own)
	@$(BIN)/qmpfleece demo $(if $(DISK),"$(DISK)")

# Compiled first: the tests start hundreds of processes, perhaps where Python may not write.
test: $(VENV)/.dev tools ## all checks: lint, types, layers, tests (ARGS= goes to pytest)
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/python -m compileall -q qmpfleece || status=1; \
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not soak" $(ARGS) || status=1; \
	[ -n "$(ARGS)" ] || ! scripts/compile.sh possible || \
		$(MAKE) --no-print-directory test-compiled COMPILED_TESTS="-m 'not soak' $(COMPILED_FEW)" || status=1; \
	exit $$status

# The programs alone: what is inside of them is tested as it is read.
test-compiled: compiled tools ## the compiled daemon beside QEMU, and end to end
	@QMPFLEECE_BIN="$(CURDIR)/build/compiled/bin" \
		$(BIN)/pytest -n $(WORKERS) --dist loadfile $(COMPILED_TESTS)

lint: $(VENV)/.dev ## ruff (rules and format), mypy --strict, import-linter
	@status=0; \
	$(BIN)/ruff check $(SOURCES) || status=1; \
	$(BIN)/ruff format --check $(SOURCES) || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	exit $$status

soak: $(VENV)/.dev tools ## the tests that take minutes: long random loads, verified
	@$(BIN)/pytest -m soak --timeout 900 $(ARGS)

compiled: build/compiled/.done ## the same with its data path compiled, into build/compiled/bin

build/compiled/.done: $(VENV)/.dev setup.py scripts/compile.sh $(shell find qmpfleece -name '*.py')
	@scripts/compile.sh

bench: $(VENV)/.dev tools ## speed beside qemu-storage-daemon and nbdkit, in the same run
	@! scripts/compile.sh possible || $(MAKE) --no-print-directory compiled
	@benchmarks/run $(ARGS)

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are made again when the dependencies may have changed.
$(VENV)/.run $(VENV)/.dev: $(VENV)/.%: pyproject.toml scripts/setup.sh
	@scripts/setup.sh python $*

tools:
	@scripts/setup.sh tools
