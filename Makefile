# The environment is made on the first call and renewed when pyproject.toml changes.
#
#   make demo                    a synthetic slide, segmented and compared with its truth
#   make demo SLIDE=a.ndpi       a slide of your own; MPP=0.25 if it has no pixel size
#   make test                    the tests, without the slow ones; about 3 minutes on two cores
#   make test-all                all tests but those marked heavy, with longer random searches
#   make lint                    style, types, and the order of the packages
#   make clean

BIN := .venv/bin
INSTALLED := .venv/.installed
PYTHON = $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
OUT := demo/out
SLIDE ?=
MPP ?=
RUN_FOLDER = $(OUT)/$(patsubst %.ome,%,$(basename $(notdir $(or $(SLIDE),slide.svs))))/dssnet

# One process per core; each computes in one thread, so that they do not slow each other down.
# TESTS="tests/slides -x" runs a part.
TESTS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: help demo test test-all lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; install one" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # in several processes; pip has one
	@touch $@

demo/slide.svs: | $(INSTALLED)
	mkdir -p $(@D)
	$(BIN)/wsiseg synth $@ --size 4096 --seed 7

demo: $(INSTALLED) $(if $(SLIDE),,demo/slide.svs)
	$(BIN)/wsiseg run "$(or $(SLIDE),demo/slide.svs)" $(if $(MPP),--mpp $(MPP)) --out $(OUT) --overwrite
	@echo
	@echo "for QuPath (drag it onto the slide): $(RUN_FOLDER)/objects.geojson.gz"
	@echo "picture of the result:               $(RUN_FOLDER)/overlay.png"
	$(if $(SLIDE),,@echo "compared with the truth:" && $(BIN)/wsiseg score $(RUN_FOLDER) demo/slide.truth.geojson.gz)

test: $(INSTALLED)
	$(PYTEST) $(TESTS)

test-all: $(INSTALLED)
	$(PYTEST) -m 'not heavy' --hypothesis-profile long $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=auto $(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf demo build dist wsiseg.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
