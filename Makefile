# PyTorch's own index of CPU builds: without it Linux wheels bring gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHON ?= python3
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
COUNT ?= 40
REPEAT ?= 1
VENV := .venv
BIN := $(VENV)/bin
DIST ?= dist

VENV_GPU := .venv-gpu
VENV_CLIENTS := .venv-clients
VENV_RAY := .venv-ray

# An editable install is found by a hook that only the environment's own start runs. Type checkers, the docs and other
# interpreters look for the package as a folder: link it where they look.
LINK_PACKAGE = -c 'import os, sys, sysconfig; p = os.path.join(sysconfig.get_path("purelib"), "voxtral_onnx"); os.path.islink(p) or os.symlink(os.getcwd(), p)'

.PHONY: help demo demo-web install test test-clients test-gpu test-ray check docs fuzz soak bench web wheel clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --retries 1 -e '.[cpu,export]'
	$(BIN)/python $(LINK_PACKAGE)
	touch $@

# Not every machine has wheels of the other hosts: without them their tests are skipped.
$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) 'torch>=2.13,<2.14'
	$(BIN)/pip install --quiet -e '.[cpu,export,trace,dev,hosts]' || $(BIN)/pip install --quiet -e '.[cpu,export,trace,dev]'
	touch $@

demo: $(VENV)/run.stamp  ## export the embedded checkpoint, transcribe two clips, compare with their transcripts
	$(BIN)/voxtral-onnx export tiny --output assets/tiny-onnx --precision q4f16,q4
	$(BIN)/python examples/demo.py

demo-web: $(VENV)/run.stamp web/vendor/VERSION  ## the page in your browser, with the embedded model and its self-test
	$(BIN)/pip install --quiet -e '.[serve]'
	$(BIN)/voxtral-onnx export tiny --output assets/tiny-onnx --precision q4f16,q4
	$(BIN)/voxtral-onnx verify assets/tiny-onnx --rungs 4
	$(BIN)/voxtral-onnx serve --page-only assets/tiny-onnx

install: $(VENV)/dev.stamp  ## set up .venv for development

test: $(VENV)/dev.stamp  ## run the tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_ARGS)

# The wheels of onnxruntime with and without CUDA exclude each other, so this has an environment of its own.
$(VENV_GPU)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV_GPU)
	$(VENV_GPU)/bin/pip install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) 'torch>=2.13,<2.14'
	$(VENV_GPU)/bin/pip install --quiet -e '.[gpu,export,trace,dev]'
	$(VENV_GPU)/bin/python $(LINK_PACKAGE)
	touch $@

test-gpu: $(VENV_GPU)/dev.stamp  ## run the tests that need a CUDA device; results go to bench/results/gpu.json
	$(VENV_GPU)/bin/python bench/gpu_tests.py $(PYTEST_ARGS)

# These packages need an older mistralai than the tests do.
$(VENV_CLIENTS)/dev.stamp:
	$(PYTHON) -m venv $(VENV_CLIENTS)
	$(VENV_CLIENTS)/bin/pip install --quiet --retries 1 livekit-plugins-mistralai livekit-plugins-silero 'pipecat-ai[mistral]'
	touch $@

test-clients: $(VENV)/dev.stamp $(VENV_CLIENTS)/dev.stamp  ## let voice agents' plugins speak to a server of tiny
	$(BIN)/voxtral-onnx export tiny --output assets/tiny-onnx --precision q4f16,q4
	$(VENV_CLIENTS)/bin/python tests/clients/agents.py $(BIN)/voxtral-onnx serve --api-only --port 0 --no-open assets/tiny-onnx

# Ray brings packages that nothing else needs, and warns of its own functions.
$(VENV_RAY)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV_RAY)
	$(VENV_RAY)/bin/pip install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) 'torch>=2.13,<2.14'
	$(VENV_RAY)/bin/pip install --quiet -e '.[cpu,export,trace,ray,serve,dev]' 'moto[server,s3]>=5,<6'
	$(VENV_RAY)/bin/python $(LINK_PACKAGE)
	touch $@

test-ray: $(VENV_RAY)/dev.stamp  ## kill nodes, workers and drivers of a cluster here; COUNT clips, REPEAT times
	REQUIRE=ray $(VENV_RAY)/bin/python -m pytest tests/cluster --count $(COUNT) --repeat $(REPEAT) $(PYTEST_ARGS)

check: $(VENV)/dev.stamp  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	if [ -d web/node_modules ]; then cd web && node_modules/.bin/tsc -p .; else echo 'web: types not checked; run: make web'; fi

docs: $(VENV)/dev.stamp  ## build the site of docs/ into build/site; a broken link is an error
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/python scripts/make_site.py

fuzz: $(VENV)/dev.stamp  ## give every parser 100,000 hostile inputs; the table goes to docs/verification.md
	PYTHONPATH=tests $(BIN)/python -m fuzz --page docs/verification.md

soak: $(VENV)/dev.stamp  ## keep a server of live speech busy for an hour, rubbish included, and draw its memory to build/server_soak.svg
	PYTHONPATH=tests $(BIN)/python bench/server_soak.py --picture build/server_soak.svg

web/vendor/VERSION: web/package.json web/package-lock.json web/vendor.mjs web/LICENSE.onnxruntime-web
	cd web && npm ci --ignore-scripts --no-audit --no-fund && node vendor.mjs

web: web/vendor/VERSION  ## fetch what the page needs of onnxruntime-web, and the tools to test it (needs Node.js)

# Not here: gpu.py (a CUDA device; skeleton.py takes the model's shape there), llama_cpp.py (xllamacpp),
# webgpu.mjs (a GPU and Dawn's bindings), web_memory.mjs and web_tiny.mjs (Chromium). Each says in its head how to run it.
bench: $(VENV)/dev.stamp web/vendor/VERSION  ## make the CPU's numbers (needs Debian's espeak-ng and flite, Node.js, 70 GB)
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python bench/wer.py
	$(BIN)/python bench/hotwords.py
	$(BIN)/python bench/pieces.py
	$(BIN)/python bench/quant.py
	$(BIN)/python bench/live.py
	$(BIN)/python bench/soak.py
	$(BIN)/python bench/turns.py
	$(BIN)/python bench/server_load.py tiny --streams 1,8,16,24,32,48 --seconds 20 --slots 64
	$(BIN)/python bench/twin.py build/twin
	$(BIN)/python bench/sizes.py
	$(BIN)/python bench/full_size.py
	$(BIN)/python bench/verify.py
	$(BIN)/voxtral-onnx export build/twin --output build/twin-onnx --precision q4f16,q4 --family native,transformers_js
	$(BIN)/voxtral-onnx export build/twin --output build/twin-small --recipe small
	$(BIN)/python bench/load.py build/twin-onnx build/twin-small
	$(BIN)/python bench/first_word.py build/twin-onnx --precision q4
	$(BIN)/python bench/hosts.py build/twin-onnx --name '4B shape, random weights'
	rm -r build/twin build/twin-onnx build/twin-small

wheel: $(VENV)/dev.stamp  ## build the wheel with the embedded model's artifact in it, verified on all rungs
	$(BIN)/voxtral-onnx export tiny --output assets/tiny-onnx --precision q4f16,q4
	$(BIN)/voxtral-onnx verify assets/tiny-onnx --checkpoint tiny --require all
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m build --wheel --outdir $(DIST) .

clean:  ## remove everything that was made here
	rm -rf $(VENV) $(VENV_CLIENTS) $(VENV_GPU) $(VENV_RAY) build dist assets/tiny-onnx web/node_modules web/vendor *.egg-info
