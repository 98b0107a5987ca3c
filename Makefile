# Two commands on a bare machine with Python 3.11 or newer: `make demo` and `make test`.
# Each target sets up .venv first where needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench docs clean

demo: $(READY)
	$(BIN)/geoshift demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(READY)
	scripts/check

# The short form of every benchmark, ten minutes at most: the wiring only. Figures go to benchmarks/quick; the
# published ones come from `python -m benchmarks.NAME`, which takes from minutes to hours.
bench: $(READY)
	$(BIN)/python -m scripts.bench

# Files that are made from code and results: JSON Schema, diagram, tables of results, the picture.
docs: $(READY)
	$(BIN)/python -m scripts.make_docs

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "geoshift needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[planner,report,test]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-device demo-out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
