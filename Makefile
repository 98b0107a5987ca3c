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

# The wiring only; the published figures come from the same command without --quick, which takes an hour.
bench: $(READY)
	$(BIN)/python -m benchmarks.mnist_tour --quick

# Files that are made from code: the profile's JSON Schema and the diagram of the transition table.
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
