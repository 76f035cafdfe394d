# make demo   sets up, morphs two pictures of examples/ with the embedded model, says where the film is
# make test   sets up and runs every check: format, lint, types, tests
# make test-checkpoint  runs segue doctor's checks as tests; SEGUE_CHECKPOINT names the model
# make bench  measures speed and memory for about an hour, and writes docs/performance.md

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-checkpoint format bench model-report clean

demo: $(READY)
	$(BIN)/segue morph examples/fox.png examples/bear.png -o out/demo.mp4 --num-frames 17
	@echo "The film: out/demo.mp4, its frames: out/demo/frames, all at a glance: out/demo/contact-sheet.png"

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not browser" --durations=20

test-checkpoint: $(READY)
	$(BIN)/python -m pytest -q tests/test_checkpoint.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m benchmarks.speed --write

model-report: $(READY)
	$(BIN)/python -m training.report

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --retries 10 --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --retries 10 --constraint constraints.txt --editable ".[dev,training]"
	touch $@

clean:
	rm -rf $(VENV) out
