# Everything needs only Python 3, make and git; scripts/dev.py finds or installs the rest.
PYTHON ?= python3
DEV = $(PYTHON) scripts/dev.py

.PHONY: help setup run test lint e2e bench coverage migration lock sbom audit

help:            ## list the targets
	@grep -E '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/'

setup:           ## environment from the lock file
	@$(DEV) setup

run:             ## demo clinics, traffic and console on http://127.0.0.1:8000 (ARGS="--port 8080")
	@$(DEV) run $(ARGS)

test:            ## lint, then tests/, then e2e/ (ARGS="-k lanes")
	@$(DEV) test $(ARGS)

lint:            ## ruff, mypy, import-linter
	@$(DEV) lint

e2e:             ## only the browser tests
	@$(DEV) e2e $(ARGS)

bench:           ## benchmarks with peers
	@$(DEV) bench $(ARGS)

coverage:        ## branch coverage of app/ by tests/
	@$(DEV) coverage $(ARGS)

migration:       ## write app/store/tables.py into the initial migration
	@$(DEV) migration

lock:            ## resolve uv.lock again after a change of the dependencies
	@$(DEV) lock

sbom:            ## bill of materials (CycloneDX) in .tools/sbom.json
	@$(DEV) sbom

audit:           ## known vulnerabilities of the locked packages, where the list can be reached
	@$(DEV) audit
