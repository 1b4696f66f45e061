# make            lists what there is to do
# make run        starts the service; PORT=9000 and ARGS="--allow-origin=127.0.0.1" pass through

PORT ?= 8888
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell command -v python3.11 || command -v python3)

.DEFAULT_GOAL := help
.PHONY: help run cluster test lint format bench soak clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start the service with its sandbox on PORT (8888); ARGS="--option=value ..."
	@mkdir -p .imageload
	@exec $(PY) main.py --port=$(PORT) --store=.imageload/journal $(ARGS)

cluster: $(VENV)/.dev ## show API and worker processes at work on a PostgreSQL of their own; ARGS="--workers=5"
	@exec $(PY) -m tests.cluster $(ARGS)

# Tests start hundreds of processes, each of which would compile every module anew. Six processes
# run the tests, so two compile theirs before, half of them each.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev ## run the tests; TESTS="tests/test_job.py -k walk" runs some
	@test -n '$(TESTS)' || ls tests/test_*.py | xargs -n 50 -P 2 $(PY) -m pytest --collect-only >/dev/null || true
	$(PY) -m pytest --numprocesses=6 --dist=worksteal $(TESTS)

lint: $(VENV)/.dev ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev ## put the code into its format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(VENV)/.dev ## measure the service beside curl, rclone and its first version; ARGS="--quick"
	$(PY) -m bench $(ARGS)

soak: $(VENV)/.dev ## kill the service 300 times in mid-job and count what was lost; ARGS="--kills=20"
	$(PY) -m tests.soak $(ARGS)

clean: ## remove the virtual environment and what the tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Each stamp says that the requirements above it are installed as they are written now.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; $(PYTHON) is older. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-cluster.txt requirements-dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
