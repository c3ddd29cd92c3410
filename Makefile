# Everything runs from .venv, which `make install` builds from the hashed lock in requirements/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO_VENV := .venv-proto
PROTO_STAMP := $(PROTO_VENV)/.installed
LOWEST_VENV := .venv-lowest
LOWEST_STAMP := $(LOWEST_VENV)/.installed
DEMO_VENV := .venv-demo
DEMO_STAMP := $(DEMO_VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests look for the tools of the environment (buf, grpcurl, hadolint) by their plain name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# --use-pep517: an old pip builds the few source packages as a new one does.
PIP_INSTALL = -m pip install --quiet --use-pep517
INSTALL_SELF = -m pip install --quiet --no-deps --no-build-isolation --editable .
PROTOS = $(shell find proto -name '*.proto' | sort)
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
# The images run what the tests ran on: the same versions, for one service alone.
IMAGE_LOCK = $(LOCK) --upgrade --constraints requirements/dev.txt

CHECK_PYTHON = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Runwire needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Name another one: make $(MAKECMDGOALS) PYTHON=python3.11"; \
	exit 1; }

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## create .venv with everything for development (once; again when the lock changes)

# An environment that is there is brought up to date, not rebuilt under the feet of its users;
# `make clean install` starts afresh, as it must with another PYTHON.
$(STAMP): requirements/dev.txt pyproject.toml
	$(CHECK_PYTHON)
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	$(BIN)/python $(INSTALL_SELF)
	@touch $@

# A newcomer has no .venv and needs none: the demonstration gets an environment of its own, with the two services and
# nothing else. Developers have all that already.
DEMO_FROM := $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))

$(DEMO_STAMP): requirements/demo.txt pyproject.toml
	$(CHECK_PYTHON)
	@echo "installing what the demonstration needs into $(DEMO_VENV), once"
	@$(PYTHON) -m venv --clear $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python -m pip install --no-compile --progress-bar off --use-pep517 --require-hashes -r $< 2>$(DEMO_VENV)/errors \
		| awk '/^(Collecting|Processing) / { printf "\r  %d packages", ++n; fflush() } /^Installing/ { printf ", installing ..."; fflush() } \
			/^Successfully/ { done = 1; print " done" } END { exit !done }' \
		|| { echo; grep -v ^WARNING $(DEMO_VENV)/errors; exit 1; }
	@touch $@

.PHONY: demo
demo: $(DEMO_FROM) ## both services, a run that is cut and resumed, and its scores: no key, no network
	@$(dir $<)bin/python -m examples.demo

# Most of the tests wait for processes, so three at a time suit two cores. A file stays in one process, with the servers
# that its fixtures start. ARGS="-n 0" is one after the other, with what they print.
PARALLEL := -n 3 --dist loadfile --durations 20

.PHONY: test
test: $(STAMP) ## every test that needs nothing but this machine
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff, mypy, import contracts, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code

.PHONY: format
format: $(STAMP) ## let ruff and buf rewrite what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

$(PROTO_STAMP): requirements/proto.txt
	$(PYTHON) -m venv --clear $(PROTO_VENV)
	$(PROTO_VENV)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/proto.txt
	@touch $@

PROTOC = $(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto

.PHONY: proto
proto: $(PROTO_STAMP) $(STAMP) ## generate the stubs, and the types of the TypeScript client, from proto/
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)
	$(BIN)/python clients/typescript/generate.py

.PHONY: verify
verify: $(PROTO_STAMP) ## the committed stubs are what proto/ generates
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(PROTOC) --python_out="$$new" --pyi_out="$$new" --grpc_python_out="$$new" $(PROTOS); \
	(cd "$$new" && find runwire -type f) | sort > "$$new/generated"; \
	find runwire -name '*_pb2*.py*' -not -path '*/__pycache__/*' | sort > "$$new/committed"; \
	diff "$$new/committed" "$$new/generated" || { echo "a .proto without stubs, or stubs without one: run make proto"; exit 1; }; \
	while read -r stub; do \
		diff -u "$$stub" "$$new/$$stub" || { echo "$$stub is stale: run make proto"; exit 1; }; \
	done < "$$new/generated"; \
	echo "stubs agree with proto/: $$(wc -l < "$$new/generated") files"

.PHONY: lock
lock: $(STAMP) ## resolve the dependencies of pyproject.toml afresh, into requirements/
	$(LOCK) --upgrade pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(LOCK) --upgrade --group proto -o requirements/proto.txt
	$(LOCK) --upgrade --resolution lowest-direct pyproject.toml --all-extras --group test -o requirements/lowest.txt
	$(IMAGE_LOCK) --group build -o requirements/build.txt
	$(IMAGE_LOCK) pyproject.toml --extra agent --extra scorer -o requirements/demo.txt
	$(IMAGE_LOCK) pyproject.toml --extra agent --extra redis --extra otel -o requirements/agent.txt
	$(IMAGE_LOCK) pyproject.toml --extra gateway -o requirements/gateway.txt
	$(IMAGE_LOCK) pyproject.toml --extra scorer --extra judges --extra redis --extra postgres --extra otel -o requirements/scorer.txt
	@! grep -n '://' requirements/*.txt || { echo "a lock file names a host"; exit 1; }

$(LOWEST_STAMP): requirements/lowest.txt pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/lowest.txt
	$(LOWEST_VENV)/bin/python $(INSTALL_SELF)
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST_STAMP) ## the tests again, on the oldest dependencies that pyproject.toml allows
	PATH="$(CURDIR)/$(LOWEST_VENV)/bin:$$PATH" $(LOWEST_VENV)/bin/python -m pytest $(PARALLEL) $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## kill, pause and partition real processes (minutes)
	$(BIN)/python -m pytest -m chaos $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## a hundred thousand requests of every kind to both services (minutes); RUNWIRE_FUZZ_SEED repeats one
	$(BIN)/python -m pytest -m fuzz -s $(ARGS)

.PHONY: test-polyglot
test-polyglot: $(STAMP) ## clients in other languages against a real server
	$(BIN)/python -m pytest -m polyglot $(ARGS)

.PHONY: test-browser
test-browser: $(STAMP) ## the pages in a real Chromium, which must be on PATH
	$(BIN)/python -m pytest -m browser $(ARGS)

.PHONY: screenshots
screenshots: $(STAMP) ## take the pictures of docs/dashboard.md again; needs a Chromium on PATH
	$(BIN)/python -m docs.screenshots

.PHONY: bench bench-streams bench-store bench-conversation bench-sqlite bench-scorer bench-scorer-readers bench-growth bench-memory bench-peers bench-quick bench-identity bench-flood bench-gateway
bench: bench-streams bench-store bench-sqlite bench-scorer bench-scorer-readers bench-growth bench-memory bench-identity ## every benchmark, as ratios
bench-streams: $(STAMP) ## live streams: fan-out, replay, idle, opening
	$(BIN)/python -m benchmarks.streams $(ARGS)
bench-store: $(STAMP) ## append and replay rates of the log
	$(BIN)/python -m benchmarks.store $(ARGS)

bench-conversation: $(STAMP) ## what a turn costs late in a conversation, beside early (minutes)
	$(BIN)/python -m benchmarks.conversation $(ARGS)
bench-sqlite: $(STAMP) ## the embedded engine: append, read, latency between processes
	$(BIN)/python -m benchmarks.sqlite $(ARGS)
bench-growth: $(STAMP) ## what calls cost beside 1,000 to 100,000 runs that have ended, and late in a long run (minutes)
	$(BIN)/python -m benchmarks.growth $(ARGS)
bench-identity: $(STAMP) ## what TLS and tokens cost, as ratios to neither
	$(BIN)/python -m benchmarks.identity $(ARGS)
bench-gateway: $(STAMP) ## 2,000 readers by Server-Sent Events, beside the same by gRPC
	$(BIN)/python -m benchmarks.gateway $(ARGS)
bench-flood: $(STAMP) ## what a tenant that floods costs a quiet one, as a ratio to alone
	$(BIN)/python -m benchmarks.flood $(ARGS)
bench-memory: $(STAMP) ## what a service process needs where clients do their worst (minutes)
	$(BIN)/python -m benchmarks.memory $(ARGS)
bench-scorer: $(STAMP) ## scorer runs a second, against job libraries
	$(BIN)/python -m benchmarks.scorer $(ARGS)
bench-scorer-readers: $(STAMP) ## what 1,000 watches and statistics cost those who are scored (minutes)
	$(BIN)/python -m benchmarks.scorer_readers $(ARGS)
bench-peers: $(STAMP) ## live streams and replay beside Mastra, Durable Streams and NATS, installed into .bench (minutes)
	$(BIN)/python -m benchmarks.peers $(ARGS)
bench-quick: $(STAMP) ## what a live event costs beside plain commands, before a release (20 s)
	$(BIN)/python -m benchmarks.quick $(ARGS)

.PHONY: deploy-check
deploy-check: $(STAMP) ## Dockerfile, compose and Kubernetes files, and the wheel freshly installed; without an engine
	$(BIN)/python -m deploy.check
	$(BIN)/python -m pytest tests/deploy -m "deploy or not deploy" $(ARGS)

.PHONY: audit
audit: $(STAMP) ## licences of what we depend on, and what is known against it (by pip-audit, where its data can be reached)
	$(BIN)/python -m deploy.audit

.PHONY: clean
clean: ## remove what can be made again, the environments too
	rm -rf $(VENV) $(PROTO_VENV) $(LOWEST_VENV) $(DEMO_VENV) .venv-bench .bench .runwire build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
