# make demo, make test, make bench, make probes: everything from nothing (Python >= 3.10 with venv, a C++ compiler and make), in .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# TORCH=2.14.0 picks another torch; an existing .venv keeps the one it has. torchvision's releases follow torch's.
TORCH ?= $(shell cat $(VENV)/torch-version 2>/dev/null || echo 2.13.0)
TORCHVISION ?= $(shell echo $(TORCH) | awk -F. '{ print "0." $$2 + 15 "." $$3 }')
INSTALLED := $(VENV)/installed-torch-$(TORCH)

.PHONY: venv build test demo lint check bench probes packaging environments clean
.DEFAULT_GOAL := build

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml scripts/requirements.py
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) scripts/requirements.py build test demo > $(VENV)/requirements.txt
	$(PY) -m pip install --disable-pip-version-check --progress-bar off torch==$(TORCH) torchvision==$(TORCHVISION) -r $(VENV)/requirements.txt
	rm -f $(VENV)/installed-torch-*
	echo $(TORCH) > $(VENV)/torch-version
	touch $@

# cmake and ninja know what is out of date.
build: $(INSTALLED)
	RNC_TESTS=ON $(PY) setup.py --quiet build_ext --inplace

test: build
	PYTHON=$(PY) scripts/test.sh static cpp python guard overhead

lint: $(INSTALLED)
	PYTHON=$(PY) scripts/test.sh static

demo: build
	$(PY) -m resnet_cuda demo

check: build
	$(PY) -m resnet_cuda check

# Two minutes; the report and its pictures are in bench_output.
bench: build
	$(PY) -m resnet_cuda bench --quick --out bench_output

# Every wrapper of csrc/ptx against its golden vectors, on the emulator and, where there is one, a GPU.
probes: build
	$(PY) -m tests.probes

# One wheel with the oldest torch, the one here and the newest release; two of them bring CUDA, 5 GB each, kept in
# $RNC_ENVIRONMENTS (build/environments).
packaging: build
	$(PY) -m tests.packaging

# The oldest torch alone, for the tests of the wheel, which are skipped where it cannot be had.
environments: $(INSTALLED)
	-$(PY) -m tests.packaging --environments oldest

clean:
	rm -rf build dist *.egg-info demo_output bench_output .pytest_cache .mypy_cache .ruff_cache
	rm -f resnet_cuda/*.so resnet_cuda/kernel_resources.json
	find resnet_cuda tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
