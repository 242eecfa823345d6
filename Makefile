# `make` alone lists what there is. Every target sets up what it needs; a second run reuses it.

PYTHON ?= python3
BIN := .venv/bin
MODEL := models/flights/manifest.json
PORT ?= 8888
# Extras of pyproject.toml: what the lessons need. Tests, lints and benchmarks need all others, too.
LESSONS := serve,onnx,lab,notebooks,gateway
TESTS := $(LESSONS),bench,test
RAY := serve,onnx,ray
# Lock files pin whatever is installed, by version and hash; setuptools, too, which builds the package.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header --no-annotate
COMMA := ,
EXTRAS = $(foreach extra,$(subst $(COMMA), ,$(1)),--extra $(extra))
BENCH := $(BIN)/pred-server bench $(QUICK) --once --out data/results
# They clash with our pins. A lock beside its program in lab/rivals names all that an environment holds.
RIVALS := kserve mlserver
# Most tests wait for a server to start. A file's tests stay together: they share its servers.
PARALLEL := --numprocesses 2 --dist loadfile
GO := GOTOOLCHAIN=local $(BIN)/go
# Go modules of their own: with Arrow and gota in it, the one at the top would fetch five times as much; and
# inprocess needs a C compiler.
GO_MODULES := gateway/examples/encodings gateway/examples/gota gateway/examples/inprocess gateway/loadgen/inprocess
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# The race detector needs a C compiler.
RACE := $(if $(shell command -v cc),-race)
NO_CGO := no bin/loadgen-inprocess: cgo needs a C compiler. Lesson 09 measures the other ways without it.
NO_GO := no gateway: Go or its modules cannot be reached. The lessons and tests in Python work without it.

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: setup  ## set up what the lessons need and open JupyterLab on the first one
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	  $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --port=$(PORT) $(LAB_FLAGS) \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

explorer: setup  ## open the explorer as a page without code: choose, run, watch, and read the verdict
	JUPYTER_PATH="$(CURDIR)/notebooks/page$${JUPYTER_PATH:+:$$JUPYTER_PATH}" \
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks/page$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	  $(BIN)/voila notebooks/page/explorer.py --port=$(PORT) $(EXPLORER_FLAGS)

test: setup .venv/test-ready  ## set up everything and run every test: Python, notebooks, Go
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_FLAGS)
	@if [ -x bin/gateway ]; then $(MAKE) --no-print-directory test-go; else echo "$(NO_GO)"; fi

test-go: .venv/ready  ## only the tests in Go; FUZZ=10m fuzzes what reads bodies and replies, so long each
	$(GO) test $(RACE) ./...
	for module in $(GO_MODULES); do $(GO) test -C $$module $(RACE) ./... || exit 1; done
ifdef FUZZ
	grep -ro --include='*_test.go' 'func Fuzz[A-Za-z]*' gateway | sed 's|/[^/]*:func | |' | while read -r package target; do \
	  $(GO) test "./$$package" -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ) -fuzzminimizetime 20x || exit 1; \
	done
endif

sweep: setup .venv/test-ready  ## every estimator of scikit-learn, saved and served by both engines; checks data/MODELS.md
	PRED_SERVER_SWEEP=all $(BIN)/python -m pytest tests/store/test_sweep.py tests/engines/test_sweep.py $(PYTEST_FLAGS)

fuzz: setup .venv/test-ready  ## 1,000 random pipelines and odd tables, 100,000 mutated messages, and ten minutes for each fuzz target in Go
	PRED_SERVER_FUZZ=$${PRED_SERVER_FUZZ:-1000} $(BIN)/python -m pytest tests/store/test_pipelines.py \
	  tests/engines/test_pipelines.py tests/wire/test_edges_served.py -s $(PYTEST_FLAGS)
	MUTATIONS=100000 $(BIN)/python -m pytest -k test_mutated_messages --timeout 3600 tests/wire/test_encodings_served.py
	@if [ -x bin/gateway ]; then $(MAKE) --no-print-directory test-go FUZZ=10m; else echo "$(NO_GO)"; fi

# In a clone, which trains a model of its own: a model of a newer scikit-learn can hold types that an older one lacks.
oldest: .venv/test-ready  ## the tests of client, models, engines and server with the oldest versions that pyproject.toml allows
	rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest && git clone --quiet . .venv-oldest/checkout
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --extra serve --extra onnx --output-file .venv-oldest/versions \
	  pyproject.toml
	.venv-oldest/bin/python -m pip install --quiet --requirement .venv-oldest/versions
	.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/versions \
	  --editable '.venv-oldest/checkout[serve,onnx,lab,notebooks,test]'
	cd .venv-oldest/checkout && ../bin/pred-server train && \
	  ../bin/python -m pytest $(PARALLEL) $(addprefix tests/,wire model store engines client server) $(PYTEST_FLAGS)

soak: setup .venv/test-ready  ## 200,000 calls to one server: nothing may grow
	$(BIN)/python -m tests.attacks.soak

attack: setup .venv/test-ready  ## every kind of attack beside good callers and a control, into data/RESULTS.md; an hour
	$(BIN)/python -m tests.attacks.measure $(ATTACK)

test-long: setup .venv/test-ready .venv-ray/ready  ## only the tests that take minutes, on a quiet machine: planted differences, killed workers, Ray
	$(BIN)/python -m pytest -m long --timeout 3600 $(PYTEST_FLAGS)

demo: setup  ## the whole story without a browser: train, stubs, serve, predict, latency table and plot, HTTP
	$(BIN)/python -m pred_server.lab.demo

setup: .venv/ready $(MODEL) gateway  ## only set up: .venv with what the lessons need, the trained model, bin/gateway

gateway: .venv/ready  ## build the HTTP gateway, bin/gateway, and what calls servers to measure them, bin/loadgen
	@mkdir -p bin; [ -x bin/gateway ] || echo "building the gateway, bin/gateway; the first time this takes a minute or two"
	@{ $(GO) build ./... && $(GO) build -o bin/ ./gateway/cmd/gateway ./gateway/loadgen; } 2> bin/build.log || { \
	  if [ -n "$$CI" ]; then cat bin/build.log; exit 1; else echo "$(NO_GO) (bin/build.log)"; fi; }
	@[ ! -x bin/gateway ] || { [ "$$($(GO) env CGO_ENABLED)" = 1 ] && \
	  $(GO) build -C gateway/loadgen/inprocess -o $(CURDIR)/bin/loadgen-inprocess . 2>> bin/build.log; } || echo "$(NO_CGO)"

stubs: .venv/ready  ## generate the stubs in generated/ from proto/
	$(BIN)/pred-server stubs

module: .venv/ready  ## give the Go module the path where you publish it: MODULE=github.com/you/predserver
	$(BIN)/python -c "import sys; from pred_server.tutorial import stubs; stubs.rename_module(sys.argv[1])" "$(MODULE)"
	$(BIN)/pred-server stubs

notebooks: setup  ## run every lesson in notebooks/scripts and write it, with outputs, to notebooks/ (ONLY=00 for one)
	$(BIN)/python notebooks/build.py $(ONLY)

plots: setup  ## draw the published results (data/figures), and write their numbers into README.md, README.ja.md and data/RESULTS.md
	rm -f data/figures/*.png
	$(BIN)/pred-server plot data/results/*.parquet --out data/figures --page README.md README.ja.md data/RESULTS.md

rivals: .venv/test-ready $(RIVALS:%=.venv-rivals/%/ready)  ## install the servers that `make bench` compares ours with, each in an environment of its own

.venv-rivals/%/ready: pred_server/lab/rivals/%.lock
	@echo "installing the rival $*, pinned, into .venv-rivals/$*; this takes a minute"
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

ray: .venv-ray/ready  ## install Ray Serve for `pred-server ray`, pinned, in an environment of its own: .venv-ray; 1 GB

.venv-ray/ready: requirements-ray.lock
	@echo "installing Ray Serve, pinned, into .venv-ray; this takes a minute"
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@echo "$(CURDIR)" > "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/checkout.pth"
	@touch $@

# A run that was interrupted goes on: studies that this revision has measured are left alone.
bench: setup rivals .venv-ray/ready  ## measure how fast it is: the published results, data/results; QUICK=--quick for a shorter, less sure run
	@mkdir -p data/results
	$(BENCH)/hand_linear.parquet --model linear --rows 1 100 1000 10000 100000 1000000
	$(BENCH)/hand_boosting.parquet --model boosting --rows 1 1000 10000 100000
	$(BENCH)/rows_linear.parquet --model linear --varies encodings --rows 1 10 100 1000 10000 100000 1000000
	$(BENCH)/rows_flights.parquet --model flights --varies encodings --rows 1 100 10000 100000
	$(BENCH)/rows_wide.parquet --model wide --varies encodings --rows 1 10 100
	$(BENCH)/chunks.parquet --model linear --varies chunks --rows 1000000 --unpinned
	$(BENCH)/load.parquet --model linear --varies load
	$(BENCH)/load_flights.parquet --model flights --varies load
	$(BENCH)/callers.parquet --varies callers
	$(BENCH)/ladder.parquet --model flights --varies ladder
	$(BENCH)/parts.parquet --model linear --varies parts
	$(BENCH)/distance.parquet --varies distance
	$(BENCH)/enormous.parquet --varies enormous
	$(BENCH)/beside.parquet --varies beside
	$(BENCH)/start.parquet --varies start
	$(BENCH)/ways.parquet --varies ways
	$(BENCH)/capacity.parquet --varies capacity
	$(BENCH)/layers.parquet --varies layers

lint: .venv/test-ready  ## ruff, mypy, go vet, staticcheck, and buf on the contract: style, and nothing that breaks a client
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@unformatted=$$($$($(GO) env GOROOT)/bin/gofmt -l gateway tests); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	for module in . $(GO_MODULES); do \
	  $(GO) vet -C $$module ./... && $(GO) run -C $$module $(STATICCHECK) ./... || exit 1; \
	done
	$(BIN)/buf lint
	$(BIN)/buf breaking proto --against tests/article
	$(BIN)/buf breaking proto --against tests/released --config tests/released/breaking.yaml

lock: .venv/test-ready  ## resolve the three lock files, requirements*.lock, anew from pyproject.toml
	$(LOCK) $(call EXTRAS,$(LESSONS)) --output-file requirements.lock pyproject.toml
	$(LOCK) $(call EXTRAS,$(TESTS)) --constraint requirements.lock --output-file requirements-test.lock pyproject.toml
	$(LOCK) $(call EXTRAS,$(RAY)) --constraint requirements-test.lock --output-file requirements-ray.lock pyproject.toml

clean:  ## remove what the other targets made, the virtual environment included
	rm -rf .venv .venv-rivals .venv-ray .venv-oldest models/flights bin build dist latency.png .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv module does not work here (on Debian: apt install python3-venv)"; exit 1; }
	@echo "installing what the lessons need into .venv, pinned; 1.4 GB; this takes some minutes"
	@$(INSTALL) --require-hashes --requirement requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test-ready: .venv/ready requirements-test.lock
	@echo "installing what tests, lints and benchmarks need, too, into .venv; this takes a minute"
	@$(INSTALL) --require-hashes --requirement requirements-test.lock
	@touch $@

$(MODEL): .venv/ready pred_server/tutorial/flights.py pred_server/store/saving.py data/flights.parquet
	@$(BIN)/pred-server train --out $(@D)

.PHONY: help lab explorer test test-long test-go sweep fuzz oldest soak attack demo setup gateway stubs module notebooks plots rivals ray bench lint lock clean
