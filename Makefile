# Every target sets up .venv first when it is missing or older than setup.cfg or constraints.txt.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin
READY := .venv/.ready
DOCS := .venv/.docs
RELEASE := .venv/.release
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
STORE := $(or $(MLFLOW_TRACKING_URI),sqlite:///mlflow.db)

# Variables of the targets: make train EXP=head_depth PROFILE=qwen2_5_vl_7b ARGS="optimizer.lr=1e-5"
train: EXP ?= basereward
sweep report: EXP ?= head_depth
look: SOURCE ?= digits
eval: BENCH ?= vl_rewardbench
PROFILE ?= tiny
MODEL ?= $(RUN)
STAGE ?= cpu

.DEFAULT_GOAL := help
.PHONY: help setup train sweep score look eval report check test coverage docs bench notebooks dist installed image ui clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with the exact versions of constraints.txt

# torch goes first: what comes after then finds it there, and brings no other build of it.
$(READY): setup.cfg constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: $(READY) ## one run of EXP (basereward) on PROFILE (tiny), ARGS="key=value ..."; with RUN=id, the rest of a stopped run or sweep
	$(BIN)/basereward $(if $(RUN),resume $(RUN),train $(EXP) --profile $(PROFILE)) $(ARGS)

sweep: $(READY) ## every cell of EXP (head_depth) on PROFILE (tiny); finished cells are skipped
	$(BIN)/basereward sweep $(EXP) --profile $(PROFILE) $(ARGS)

score: $(READY) ## scores of every response in FILE=rows.jsonl by MODEL=folder, or RUN=id
	$(BIN)/basereward score $(MODEL) $(FILE) $(ARGS)

look: $(READY) ## an HTML page of the rows of SOURCE (a name, or rows.jsonl), with scores of MODEL=folder, or RUN=id
	$(BIN)/basereward look $(SOURCE) $(if $(MODEL),--model $(MODEL)) $(ARGS)

eval: $(READY) ## measures of MODEL=folder, or RUN=id, on BENCH (a name; data=PATH in ARGS for a copy) or a SUITE
	$(BIN)/basereward eval $(MODEL) $(if $(SUITE),--suite $(SUITE),--benchmark $(BENCH)) $(ARGS)

report: $(READY) ## an HTML page of EXP (head_depth; all: of every one) on PROFILE (tiny), or of EVALS="folder folder" of `eval`
	$(BIN)/basereward report $(if $(EVALS),$(EVALS),$(EXP) --profile $(PROFILE)) $(ARGS)

check: $(READY) ## style, types, arrows and doors, stripped notebooks, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python .ci/check-style
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS))
	$(BIN)/codespell
	.ci/check-files

# torch.compile reads this code, and cannot read the bytecode into which slipcover rewrites it on Python 3.11.
NOT_MEASURED := basereward/model/attention/*,basereward/model/lora.py

TEST := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY) ## all tests, in two processes; ARGS="tests/recipe -x" for some
	$(BIN)/python $(TEST) $(ARGS)

# With all tests alone: some of them say nothing about the lines that others run. A target of its own, since it makes them
# a fifth slower. slipcover measures it, not coverage.py, which on Python 3.11 makes tests of training a third slower and
# those that read rows 60 %.
coverage: $(READY) ## all tests, and the share of lines that they run; modules under 80 % need a reason
	$(BIN)/python -m slipcover --source basereward --omit '$(NOT_MEASURED)' --json --out .coverage $(TEST)
	$(BIN)/python .ci/check-coverage .coverage

docs: $(DOCS) ## the documentation as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# The tools of the site are needed for nothing else, so they are installed when the site is first built.
$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench: $(READY) ## our layouts side by side, and other trainers where bench/README.md says they are
	$(BIN)/python -m bench $(ARGS)

notebooks: $(READY) ## runs every notebook from top to bottom and writes nothing back
	$(if $(NOTEBOOKS),$(BIN)/jupyter-execute --timeout=1800 $(NOTEBOOKS))

dist: $(RELEASE) ## the source archive and the wheel of a release in dist/, checked as an index checks them
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*

# Needed for a release only, as the tools of the site are for the site.
$(RELEASE): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	@touch $@

installed: dist ## installs the wheel in a new environment, and trains and sweeps a few steps there from an empty folder
	.ci/check-installed dist/*.whl

image: ## a Docker image for the CPU, or with STAGE=cuda for NVIDIA GPUs
	docker build --target $(STAGE) --tag basereward:$(STAGE) $(ARGS) .
	docker run --rm basereward:$(STAGE) check head_depth

ui: $(READY) ## the MLflow pages of all runs, at PORT (5000)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --app-name basereward --backend-store-uri $(STORE) --port $(PORT) $(ARGS)

clean: ## removes caches and build products; .venv, runs and mlflow.db stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage htmlcov
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
