# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up on a fresh Debian 12 machine, and little when repeated.

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
BUILD ?= build
TEST_WORKERS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: demo test test-cpp test-python plugin serve lint format bench soak sanitize fuzz golden model model-data model-small clean

demo: plugin ## bounce 30 s of music through the plugin into out/demo
	$(PY) -m demo.bounce --out out/demo

test: plugin test-cpp test-python ## the whole suite

test-cpp: plugin
	ctest --test-dir $(BUILD) --output-on-failure

test-python: plugin $(VENV)/.hosts-ready
	$(PY) -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile

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
	$(VENV)/bin/mypy -p engine_server -p hosts -p demo -p examples -p tests.bench -p tests.fuzz -p tests.soak -p tests.golden -p training -p trt_engines
	git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format --dry-run --Werror

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format -i

bench: plugin $(VENV)/.hosts-ready ## speed and memory, as ratios against a baseline in the same run; JSON in out/bench.json
	$(PY) -m tests.bench --json out/bench.json

KILLS ?= 200
CLIENT_KILLS ?= 50
NETWORK_FAULTS ?= 100
WORKER_KILLS ?= 50
SOAK_MINUTES ?= 60
SEED ?= 1

soak: plugin $(VENV)/.hosts-ready ## faults at random, then tracks that come and go, in two hours and a half; KILLS=200 CLIENT_KILLS=50 WORKER_KILLS=50 SOAK_MINUTES=60 SEED=1
	$(PY) -m tests.soak --kills $(KILLS) --client-kills $(CLIENT_KILLS) --network $(NETWORK_FAULTS) \
		--worker-kills $(WORKER_KILLS) --minutes $(SOAK_MINUTES) --seed $(SEED) --json out/soak.json

$(VENV)/.ready: pyproject.toml scripts/debian-packages
	scripts/debian-packages
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[hosts,test,training,cluster,trt]'
	$(PY) -m pip install --quiet --no-deps basic-pitch==0.4.0 # only its ONNX file is used; it would pull in TensorFlow
	touch $@

sanitize: $(VENV)/.ready ## C++ tests with Address, Undefined, Thread and RealtimeSanitizer; PLUGIN=1 for the processor too
	scripts/debian-packages clang-22 libclang-rt-22-dev llvm-22
	scripts/sanitize

RUNS ?= 10000000
PY_RUNS ?= 200000
SERVER_RUNS ?= 200000
fuzz: $(VENV)/.ready ## fuzz both codecs and a live server, an hour: RUNS=10000000 in C++, PY_RUNS=200000 in Python, SERVER_RUNS=200000, SEED=1; finds go to tests/fuzz/corpus
	scripts/debian-packages clang-22 libclang-rt-22-dev llvm-22
	$(PY) -m pip install --quiet --editable '.[fuzz]'
	RUNS=$(RUNS) PY_RUNS=$(PY_RUNS) SERVER_RUNS=$(SERVER_RUNS) SEED=$(SEED) PYTHON=$(PY) scripts/fuzz

# What only the tests need: a DAW, and a display for editors.
HOST_PACKAGES = ardour xvfb

$(VENV)/.hosts-ready: $(VENV)/.ready
	scripts/debian-packages $(HOST_PACKAGES)
	touch $@

golden: $(VENV)/.ready ## run reference vectors; DIR=folder
	$(PY) -m tests.golden $(or $(DIR),tests/golden/sampler)

# What training needs of Debian besides; training/README.md says what each is for.
TRAINING_PACKAGES = fluidsynth fluid-soundfont-gm musescore-general-soundfont-small fluidr3mono-gm-soundfont \
	timgm6mb-soundfont ufoai-music sonic-pi-samples
WORK ?= $(HOME)/.cache/demon-bridge/training
THREADS ?= 2
TRAIN = $(PY) -m training
TRAINED = --work $(WORK) --threads $(THREADS)

model: model-data ## train the embedded checkpoint and its LoRAs again, in hours; WORK=folder, THREADS=2; resumes where it was
	$(TRAIN).train_codec codec $(TRAINED)
	$(TRAIN).cache_latents $(TRAINED)
	$(TRAIN).train_codec decoder $(TRAINED)
	$(TRAIN).train_dit flow $(TRAINED)
	$(TRAIN).train_dit finish $(TRAINED)
	$(TRAIN).export --work $(WORK)
	$(TRAIN).styles $(TRAINED)
	$(TRAIN).train_lora $(TRAINED)
	$(TRAIN).curves --work $(WORK) --out out/model/curves.png
	$(VENV)/bin/demon eval --work $(WORK) --json out/model/evaluation.json --picture out/model/evaluation.png
	@echo "for engine_server/assets/embedded/MODEL_CARD.md: the figures and pictures in out/model"

model-small: model-data ## train the small checkpoint of the tests again, into tests/checkpoint
	$(TRAIN).train_codec codec --size small --steps 400 $(TRAINED)
	$(TRAIN).cache_latents --size small --pieces 200 $(TRAINED)
	$(TRAIN).train_dit flow --size small --steps 600 $(TRAINED)
	$(TRAIN).train_dit finish --size small --steps 100 $(TRAINED)
	$(TRAIN).export --size small --codec codec --work $(WORK) --target tests/checkpoint

model-data: $(VENV)/.ready
	scripts/debian-packages $(TRAINING_PACKAGES)
	$(TRAIN).build_data renders --work $(WORK)
	$(TRAIN).build_data evaluation --work $(WORK)
	[ -f $(WORK)/recordings.json ] || $(TRAIN).build_data recordings --work $(WORK)

clean:
	rm -rf $(BUILD) out
