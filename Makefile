# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up on a fresh Debian 12 machine, and little when repeated.

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
BUILD ?= build
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: demo test test-cpp test-python plugin serve lint format bench golden clean

demo: plugin ## bounce 30 s of music through the plugin into out/demo
	$(PY) -m demo.bounce --out out/demo

test: plugin test-cpp test-python ## the whole suite

test-cpp: plugin
	ctest --test-dir $(BUILD) --output-on-failure

test-python: plugin
	$(PY) -m pytest

plugin: $(VENV)/.ready $(BUILD)/build.ninja ## build the VST3: build/DEMON.vst3
	cmake --build $(BUILD)

$(BUILD)/build.ninja: | $(VENV)/.ready
	cmake -S . -B $(BUILD) -G Ninja --log-level=WARNING -DDEMON_WERROR=ON

serve: $(VENV)/.ready ## run the engine server; MODEL=path, ENDPOINT=tcp://127.0.0.1:47800
	$(VENV)/bin/demon serve $(if $(MODEL),--model $(MODEL)) $(if $(ENDPOINT),--endpoint $(ENDPOINT))

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict -p shared_protocol -p engine_server.diffusion
	$(VENV)/bin/mypy -p engine_server -p hosts -p demo -p examples -p tests.bench -p tests.golden
	git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format --dry-run --Werror

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format -i

bench: $(VENV)/.ready ## speed and memory, as ratios against a baseline in the same run; JSON in out/bench.json
	$(PY) -m tests.bench --json out/bench.json

$(VENV)/.ready: pyproject.toml scripts/debian-packages
	scripts/debian-packages
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[hosts,test,training]'
	touch $@

golden: $(VENV)/.ready ## run reference vectors; DIR=folder
	$(PY) -m tests.golden $(or $(DIR),tests/golden/sampler)

clean:
	rm -rf $(BUILD) out
