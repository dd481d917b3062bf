# Recipes. `make` alone prints the menu, which is made of the ## comments below.

PYTHON  ?= python3
VENV    ?= .venv
TOOLS   ?= .tools
WORKERS ?= 2
ARGS    ?=
MINUTES ?= 2
QUICK   ?=
BENCHES ?= overhead start scaling averager field utilisation

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
WATCHERS := prometheus prometheus-alertmanager

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup swarm chaos bench test deploy-test check fmt proto docs tools clean
.PHONY: check-format check-lint check-types check-imports check-proto check-deploy check-spelling

help: ## print this menu
	@echo "Recipes (PYTHON=$(PYTHON) VENV=$(VENV); extra words for a command go into ARGS=\"...\"):"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: $(STAMP) ## create the virtual environment and install everything (once; again when versions change)

swarm: setup ## train a language model with a swarm of real nodes on this computer (two minutes)
	$(BIN)/lowcomm-node swarm $(ARGS)

chaos: setup ## strike a swarm with kills, frozen processes, cut lines and full disks, for MINUTES=2
	$(BIN)/lowcomm-node swarm --chaos --nodes 5 --join-late 1 --minutes $(MINUTES) $(ARGS)

bench: setup ## measure what docs/benchmarks.md shows, one after the other, into runs/bench (most of an hour; QUICK=1: only see that it works)
	for name in $(BENCHES); do \
	  $(BIN)/lowcomm-node bench $$name --json runs/bench/$$name.json $(if $(QUICK),--quick) $(ARGS) || exit; \
	done

test: setup ## run all tests: the quick ones, then those with real processes, then those that want the computer for themselves
	$(BIN)/pytest -m "not system and not engine" -n $(WORKERS) $(ARGS)
	$(BIN)/pytest -m "system and not engine and not alone" -n $(WORKERS) --dist loadfile $(ARGS)
	$(BIN)/pytest -m alone $(ARGS)

deploy-test: setup tools ## start what is deployed for real: containers, hosts, the unit under systemd (as root)
	$(BIN)/pytest -m engine tests/deploy $(ARGS)

check: check-format check-lint check-types check-imports check-proto check-deploy check-spelling ## format, lint, types, imports, generated code, spelling; changes nothing

check-format: setup
	$(BIN)/ruff format --check .
check-lint: setup
	$(BIN)/ruff check .
check-types: setup
	$(BIN)/mypy
check-imports: setup
	$(BIN)/lint-imports
check-proto: setup
	$(BIN)/python proto/generate.py --check
check-deploy: setup
	$(BIN)/python -m deploy.grafana.generate --check
	$(BIN)/python -m deploy.prometheus.generate --check
check-spelling: setup
	$(BIN)/codespell

fmt: setup ## format the code and repair what the linter can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: setup ## compile proto/ into lowcomm_node/wire/gen and renew the descriptor lock
	$(BIN)/python proto/generate.py $(ARGS)

docs: setup ## write the pages, dashboards and rules that are made from the code
	$(BIN)/python -m lowcomm_node.telemetry.catalogue > docs/metrics.md
	$(BIN)/python docs/log_events.py > docs/log-events.md
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m deploy.prometheus.generate

tools: $(TOOLS)/usr/bin/promtool $(TOOLS)/usr/libexec/docker/cli-plugins/docker-compose ## fetch Debian's Prometheus and Docker's compose for the tests of what is deployed; nothing is installed

clean: ## remove the virtual environment, caches and build results
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find lowcomm_node tests proto -name __pycache__ -type d -prune -exec rm -rf {} +

$(TOOLS)/usr/bin/promtool:
	mkdir -p $(TOOLS)
	cd $(TOOLS) && { apt-get download $(WATCHERS) || { apt-get update && apt-get download $(WATCHERS); }; }
	for package in $(TOOLS)/prometheus*.deb; do dpkg-deb --extract $$package $(TOOLS); done
	rm $(TOOLS)/prometheus*.deb

# Those of Debian 12 are too old for our files.
$(TOOLS)/usr/libexec/docker/cli-plugins/docker-compose:
	.ci/newer trixie $(TOOLS) docker-compose docker-buildx

# torch goes first and alone: which build fits this machine is settled before anything else asks for it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lowcomm-node needs Python 3.11 or newer, and $(PYTHON) is not; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt "torch>=2.9,<2.14"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,sim]"
	@touch $@
