# Each target sets everything up on a fresh machine: Python 3.11 or later and a network are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs all-tests accelerator oldest clean

demo: $(VENV)/installed  ## bundles for a Jetson and for an x86 processor from the built-in demo
	$(BIN)/edgekd build --target jetson --target x86-cpu

# The tests train many small networks. There a second thread gains little, and took more than eight times as long where two cores are shared;
# a second process nearly halves the time. The tests of a file stay in one process.
test all-tests accelerator oldest: export OMP_NUM_THREADS ?= 1
WORKERS ?= 2

test: $(VENV)/installed-test  ## the tests, without the long ones
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

all-tests: $(VENV)/installed-test  ## the long ones too
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

accelerator: $(VENV)/installed-test  ## distillation on an emulated device that, as a GPU does, refuses tensors of the processor
	$(BIN)/python -m pytest -m "not slow" --emulated-accelerator tests/distill tests/models tests/inputs \
		tests/steps/test_record.py tests/check/test_teachers.py tests/check/test_class_order.py $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs  ## the docs site, in build/site; a link that leads nowhere is an error
	$(BIN)/mkdocs build

# torch first and alone: a plain `pip install` of everything could pick a build with gigabytes of CUDA packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,tensorboard]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	touch $@

oldest:  ## the tests with the lowest supported versions; torch comes as the index has it, which may be a CUDA build of gigabytes
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --disable-pip-version-check -q -c constraints-oldest.txt torch
	.venv-oldest/bin/pip install --disable-pip-version-check -q -c constraints-oldest.txt -e '.[dev,tensorboard]'
	.venv-oldest/bin/python -m pytest -m "not slow" -W default $(ARGS)

clean:
	rm -rf $(VENV) .venv-oldest build
