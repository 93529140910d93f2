# Steelyard's commands. `make` alone lists them; each needing the environment sets it up first.
#
# Environment variables that set-up heeds:
#   PYTHON            the interpreter for a new .venv: its path, or a version that is on PATH; else
#                     the first on PATH that pyproject.toml allows
#   UV_TORCH_BACKEND  where torch comes from: `cpu` is PyTorch's own small build, `auto` fits the
#                     driver; unset, what pip's find-links offer, else the registry's GPU build

.DEFAULT_GOAL := help
.PHONY: help setup peers demo attribution-demo test test-slow check bench constraints clean

BIN := .venv/bin
STAMP := .venv/.complete
PEERS := .venv-peers/.complete
# Seconds. torch is large, and some lines are slow.
export UV_HTTP_TIMEOUT ?= 300
# Every worker imports torch and transformers: 6 s with cached bytecode on two cores, 13 s without.
unexport PYTHONDONTWRITEBYTECODE

# Sets $$uv to one that runs: PATH's, or Python's module, or our own in .uv. A version manager may
# leave a shim on PATH that only fails, so each is tried. `--target` works where Python is
# externally managed (PEP 668), and a virtual environment works where pip is not installed.
find_uv = uv=.uv/bin/uv; \
	for found in uv "python3 -m uv"; do \
	  if $$found --version >/dev/null 2>&1; then uv=$$found; break; fi; \
	done; \
	if ! $$uv --version >/dev/null 2>&1; then \
	  echo "Installing uv into .uv"; rm -rf .uv; \
	  python3 -m pip install --quiet --target .uv uv || \
	  { rm -rf .uv && python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv; } || \
	  { echo "Steelyard needs uv, or a python3 with pip or venv to install it."; exit 1; }; \
	fi

# uv reads none of pip's settings, and pip's find-links are how a machine offers a CPU build of
# torch. pip separates them by spaces and skips a missing folder, uv wants commas and stops.
use_find_links = links=; \
	pip_links=$${PIP_FIND_LINKS-$$(python3 -m pip config get global.find-links 2>/dev/null)}; \
	for link in $$pip_links; do \
	  case $$link in *://*) ;; *) [ -d "$$link" ] || continue ;; esac; \
	  links=$$links$${links:+,}$$link; \
	done; \
	export UV_FIND_LINKS="$${UV_FIND_LINKS-$$links}"

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the exact versions of constraints.txt

# Rebuilt whole, never repaired: the stamp goes first and comes last, so an interrupted set-up
# leaves nothing that the next one trusts. uv's cache makes a rebuild a matter of seconds.
$(STAMP): pyproject.toml constraints.txt
	@$(find_uv); $(use_find_links); set -ex; rm -rf .venv; \
	$$uv venv --quiet $(if $(PYTHON),--python "$(PYTHON)"); \
	$$uv pip install --python $(BIN)/python --constraints constraints.txt --editable '.[all,dev]'
	@touch $@

# What each peer asks for and never imports would replace torch or break transformers. So they come
# last and as listed, with nothing that they ask for.
peers: $(PEERS) ## Make .venv-peers, where `make bench` compares with other libraries

$(PEERS): pyproject.toml constraints.txt tests/bench/peers.txt
	@$(find_uv); $(use_find_links); set -ex; rm -rf .venv-peers; \
	$$uv venv --quiet $(if $(PYTHON),--python "$(PYTHON)") .venv-peers; \
	$$uv pip install --python .venv-peers/bin/python --constraints constraints.txt \
	  --editable '.[attribution,corpora,data,trainer]' peft psutil; \
	$$uv pip install --python .venv-peers/bin/python --no-deps --requirements tests/bench/peers.txt
	@touch $@

demo: setup ## Compare the methods on real text: prints a table and the path of a report
	$(BIN)/steelyard run sweeps/demo.toml --out runs/demo

attribution-demo: setup ## Find which rows made a small model say so: prints the paths of pages
	$(BIN)/steelyard attribute run sweeps/attribution/demo.toml --out runs/attribution

# The workers share the cores, so each keeps torch to one thread.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=4

test: setup ## Run the tests but the slow ones
	$(PYTEST) -m 'not slow'

test-slow: setup ## Run the slow tests: kills at many moments, launchers, whole studies
	$(PYTEST) -m slow

check: setup ## Lint, check formatting, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/pytest tests/test_layers.py

bench: setup peers ## Measure the loop against plain PyTorch, and scores against other libraries
	$(BIN)/python -m tests.bench.run
	.venv-peers/bin/python -m tests.bench.peers --rows 256 --queries 64 --models gpt2 llama

# Resolved for the oldest Python: what it can run, the newer ones can. No find-links: a version
# that one machine offers is not for everyone.
constraints: ## Renew constraints.txt with the newest versions that pyproject.toml allows
	@$(find_uv); set -ex; env -u UV_FIND_LINKS -u UV_TORCH_BACKEND $$uv pip compile pyproject.toml \
	  --quiet --upgrade --all-extras --python-version 3.11 --python-platform linux --no-annotate \
	  --custom-compile-command 'make constraints' --output-file constraints.txt

clean: ## Remove the environments and caches; results in runs/ stay
	rm -rf .venv .venv-peers .uv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
