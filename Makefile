# `make demo` and `make test` work on a fresh machine: what a target needs is installed into .venv the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
N ?= 1000

unexport PYTHONPATH PYTHONHOME

.PHONY: demo test test-all check random keras bench gpu

demo: $(VENV)/.run  ## Compile DenseNet-121 and run it once.
	mkdir -p build
	$(BIN)/rescompile build specs/densenet121.yaml --target onnx -o build/
	$(BIN)/rescompile run build/densenet121.onnx

# A file's tests share its fixtures and caches, so one worker runs them all.
PYTEST := $(BIN)/pytest -n auto --dist loadfile

test: $(VENV)/.dev  ## Run the tests that take little time, in parallel; ARGS are pytest's.
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.dev  ## Run the slow tests: the whole zoo against its peers, mutants, everything that takes seconds.
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/.dev  ## Lint, format, types, and who may import whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

random: $(VENV)/.dev  ## Compare N random networks with the interpreter; more than `make test` does.
	RESCOMPILE_RANDOM=$(N) $(BIN)/pytest tests/backends/test_differential.py tests/backends/test_source.py $(ARGS)

keras: $(VENV)/.dev  ## Compare the outputs of all models of keras.applications that have a profile; minutes.
	RESCOMPILE_KERAS=1 $(BIN)/pytest tests/weights/test_keras.py $(ARGS)

bench: $(VENV)/.dev  ## Measure side by side with torch's exporters, torchvision and timm; about an hour and a half.
	mkdir -p build
	for part in compile torch_module train runtime predict; do $(BIN)/python benchmarks/$$part.py --json build/$$part.json $(ARGS) || failed=1; done; \
	exit $${failed:-0}

gpu: $(VENV)/.dev  ## Measure on an NVIDIA GPU, part by part, into build/gpu.json; 25 minutes.
	mkdir -p build
	$(BIN)/python benchmarks/gpu.py --json build/gpu.json $(ARGS)

# A stamp says that .venv holds a set of packages; each set is made again when what it is made from changes.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[run]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(INSTALL) --editable '.[run,dev,bench,plot,image,keras,openvino]' torch huggingface_hub keras onnxscript
	$(INSTALL) --no-deps torchvision timm
	touch $@
