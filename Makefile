# Set-up is part of every command: a virtual environment with what the requirements files name. Compiled on all cores,
# where pip would take one, but for what no program imports.
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/python3 -m compileall -q -j 0 -x '/(tests?|nvidia)/' .venv/lib >/dev/null 2>&1 || true
RUN := demo-$(shell date +%Y%m%d-%H%M%S)

STEP = @printf '\n%s\n'

TEST := $(BIN)/python test.py --benchmark coco --datapath docs/example/test.json
demo: .venv/run
	$(STEP) "1 of 3: raw features, nothing trained, on 112 pairs of drawings (20 s on two quiet cores)"
	$(TEST) --no-report --logpath $(RUN)/raw
	$(STEP) "2 of 3: four epochs of training on other drawings (two minutes)"
	$(BIN)/python train.py --benchmark coco --datapath docs/example/keypoints.json --categories fish,house --val-share 0.3 --lr 0.1 --niter 4 --seed 1 --logpath $(RUN)/train
	$(STEP) "3 of 3: the trained model on the same pairs (40 s)"
	$(TEST) --load logs/$(RUN)/train --logpath $(RUN)/trained
	@echo; for model in raw trained; do echo "$$model: $$(grep -m 1 "PCK@" logs/$(RUN)/$$model/log.txt)"; done
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
