# `make demo` and `make test` work on a fresh machine: dependencies are installed into .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
N ?= 1000
SEED ?= 0
LARGE ?= 200
JOBS ?= 2

# PYTHON is for the recipes alone: tinygrad, for one, reads the environment variable of this name as a number.
unexport PYTHON PYTHONPATH PYTHONHOME

.PHONY: demo test test-all check random trust fuzz fuzz-bytes faults frameworks keras bench gpu site

demo: $(VENV)/.run  ## Compile DenseNet-121 and run it once.
	mkdir -p build
	$(BIN)/rescompile build specs/densenet121.yaml --target onnx -o build/
	$(BIN)/rescompile run build/densenet121.onnx

# Tests of one file share fixtures, caches and folders, so one worker runs them all, in order.
PYTEST := $(BIN)/pytest -n auto --dist loadfile

test: $(VENV)/.dev  ## Run the quick tests in parallel; ARGS are passed to pytest.
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.dev  ## Run the slow tests: the whole zoo against its peers, mutation tests, everything that takes seconds.
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/.dev  ## Lint, format, type-check, and check the import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

random: $(VENV)/.dev  ## Compare N random networks with the interpreter, more than `make test`.
	RESCOMPILE_RANDOM=$(N) $(BIN)/pytest tests/backends/test_differential.py tests/backends/test_source.py $(ARGS)

trust: N = 10000
trust: $(VENV)/.dev  ## Check N random specs from SEED on, and LARGE ones with hundreds of blocks; about an hour.
	$(BIN)/python tests/trust/run.py --specs $(N) --from $(SEED) --large $(LARGE) --jobs $(JOBS)

fuzz: N = 50000
fuzz: $(VENV)/.dev  ## Check N mutated specs of the zoo and the library, each within 1 s and 150 MB; a quarter of an hour.
	$(BIN)/python tests/support/fuzz_specs.py $(N)

fuzz-bytes: N = 1000000
fuzz-bytes: $(VENV)/.dev  ## Fuzz the expression parser and the YAML reader with N inputs each, guided by coverage.
	$(INSTALL) --editable '.[fuzz]'
	$(BIN)/python tests/support/fuzz_bytes.py expressions $(N)
	$(BIN)/python tests/support/fuzz_bytes.py reader $(N)

faults: $(VENV)/.dev  ## Inject a fault into each system call on a command's files; Linux, needs strace; half an hour.
	$(BIN)/python tests/files/inject_faults.py $(ARGS)

frameworks: $(VENV)/.dev  ## Compare the outputs of the whole zoo in Flax, Keras and MLX with the interpreter, in float64; an hour.
	RESCOMPILE_FRAMEWORKS=1 $(BIN)/pytest -n auto tests/backends/test_frameworks.py -k network_of_the_zoo $(ARGS)

keras: $(VENV)/.dev  ## Compare the outputs of all models of keras.applications that have a profile; minutes.
	RESCOMPILE_KERAS=1 $(BIN)/pytest tests/weights/test_keras.py $(ARGS)

bench: $(VENV)/.dev  ## Measure side by side with torch's exporters, torchvision and timm; about an hour and a half.
	mkdir -p build
	for part in compile torch_module train runtime predict; do $(BIN)/python benchmarks/$$part.py --json build/$$part.json $(ARGS) || failed=1; done; \
	exit $${failed:-0}

gpu: $(VENV)/.dev  ## Measure on an NVIDIA GPU, part by part, into build/gpu.json; 25 minutes.
	mkdir -p build
	$(BIN)/python benchmarks/gpu.py --json build/gpu.json $(ARGS)

site: $(VENV)/.dev  ## Build the documentation site in build/site; a broken link or anchor is an error.
	$(BIN)/python docs/make_site.py

# A stamp file marks a set of packages as installed in .venv; it is rebuilt when its prerequisites change.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[run]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(INSTALL) --editable '.[run,dev,bench,plot,image,keras,openvino,lsp,flax,mlx]' torch huggingface_hub onnxscript
	$(INSTALL) --no-deps torchvision timm
	touch $@
