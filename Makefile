# Set-up is part of every command: a virtual environment with what the requirements files name. Compiled on all cores,
# where pip would take one, but for what no program imports.
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/python3 -m compileall -q -j 0 -x '/(tests?|nvidia)/' .venv/lib >/dev/null 2>&1 || true
RUN := demo-$(shell date +%Y%m%d-%H%M%S)

STEP = @printf '\n%s\n'

TEST := $(BIN)/python test.py --benchmark synthetic --backbone efficientnet_lite0
demo: .venv/run
	$(STEP) "1 of 4: raw features, nothing learned, on 48 synthetic pairs (40 s on two quiet cores)"
	$(TEST) --no-report --logpath $(RUN)/raw
	$(STEP) "2 of 4: untrained gates and transformation on the same pairs (40 s)"
	$(TEST) --untrained --no-report --logpath $(RUN)/untrained
	$(STEP) "3 of 4: three epochs of training (two minutes)"
	$(BIN)/python train.py --benchmark synthetic --backbone efficientnet_lite0 --supervision strong --lr 0.2 --niter 3 --logpath $(RUN)/train
	$(STEP) "4 of 4: the trained model on the same pairs (one minute)"
	$(BIN)/python test.py --benchmark synthetic --load logs/$(RUN)/train --logpath $(RUN)/trained
	@echo; for model in raw untrained trained; do echo "$$model: $$(grep -m 1 "PCK@" logs/$(RUN)/$$model/log.txt)"; done
	@echo "Three minutes of training are worth much beside an untrained model, but do not reach raw ImageNet features:"
	@echo "the transformation begins with random weights, and 160 pairs of five photographs are few."
	@echo "report and pictures: logs/$(RUN)/trained/report.html"

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
