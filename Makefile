# Set-up is part of every command: a virtual environment with what the requirements files name. Compiled on all cores,
# where pip would take one, but for what no program imports.
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/python3 -m compileall -q -j 0 -x '/(tests?|nvidia)/' .venv/lib >/dev/null 2>&1 || true
RUN := demo-$(shell date +%Y%m%d-%H%M%S)

STEP = @printf '\n%s\n'

demo: .venv/run
	$(STEP) "1 of 3: the untrained network is tested on 48 synthetic pairs (40 s on two quiet cores)"
	$(BIN)/python test.py --benchmark synthetic --backbone efficientnet_lite0 --logpath $(RUN)/before
	$(STEP) "2 of 3: it is trained for three epochs (two minutes)"
	$(BIN)/python train.py --benchmark synthetic --backbone efficientnet_lite0 --supervision strong --lr 0.2 --niter 3 --logpath $(RUN)/train
	$(STEP) "3 of 3: it is tested again (40 s on two quiet cores)"
	$(BIN)/python test.py --benchmark synthetic --load logs/$(RUN)/train/best_model.pt --logpath $(RUN)/after
	@echo; for when in before after; do echo "$$when training:"; grep -m 1 "PCK@" logs/$(RUN)/$$when/log.txt; done
	@echo "pictures of matches and selected layers: logs/$(RUN)/after"

test: .venv/dev
	$(BIN)/python -m pytest

# With the slow ones.
test-all: .venv/dev
	$(BIN)/python -m pytest -m ""

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/run: requirements.txt
	$(STEP) "set-up of .venv, once: 6 GB are downloaded and unpacked (two to five minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -r requirements.txt
	$(COMPILE)
	touch $@

.venv/dev: requirements.txt requirements-dev.txt
	$(STEP) "set-up of .venv with what tests need, once (two to five minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -r requirements-dev.txt
	$(COMPILE)
	touch .venv/run $@

.PHONY: demo test test-all lint
