# Everything a user runs. Targets install what they need; only Python 3.11 or 3.12 and make must be there.
PYTHON ?= python3
UV := 0.13.9
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Where images of containers switch it off, every process would compile torch and all else anew: half a minute each.
unexport PYTHONDONTWRITEBYTECODE
TARGETS := help setup demo test quick coverage check format code bench report verify preset add remove all remote pull \
	push clean-work restore slim gc
# Those of params.yaml, own ones included. A name that is a target already is told by `make all` and by the steps.
DATASETS := $(filter-out $(TARGETS),$(shell awk '/^[^ \043]/ { inside = ($$0 ~ /^datasets:/); depth = -1; next } \
	inside && match($$0, /^ +[A-Za-z_][A-Za-z0-9_]* *:/) { indent = match($$0, /[^ ]/); \
		if (depth < 0) depth = indent; if (indent == depth) { split($$0, part, ":"); gsub(/ /, "", part[1]); print part[1] } }' \
	params.yaml 2>/dev/null))

.DEFAULT_GOAL := help
.PHONY: $(TARGETS) $(DATASETS)

help: ## List the targets
	@sed -n 's/^\([^:#\t]*\):[^#=]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | sed 's/$$(DATASETS)/$(DATASETS)/' | \
		awk -F '|' '{printf "  make %-34s %s\n", $$1, $$2}'

setup: $(VENV)/installed ## Create .venv with the locked packages (about a minute); does nothing afterwards

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit( \
		f"Python {v[0]}.{v[1]} is too old or too new: run make PYTHON=python3.11 (or python3.12)")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check uv==$(UV)
	uv pip sync --quiet requirements.lock
	uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Build all sample shards from samples/, then show the ledger and the loader's first batch
	@python -m stages.check
	@dvc --wait-for-lock repro
	@python -m stages.report --first-batch

test: setup ## Run all tests: in parallel, then those that need the machine for themselves, then captions on each Python
	pytest -n auto -m "not serial"
	pytest -m serial
	python tests/run_on_pythons.py

quick: setup ## Run the unit tests
	pytest -n auto -m "not slow and not serial"

coverage: setup ## Run the tests that run in parallel, and say which branches none of them takes
	@rm -f .coverage .coverage.*
	pytest -n auto -m "not serial" --cov --cov-report=term-missing:skip-covered

check: setup ## Run the linters, the type checker and the import contracts
	ruff check
	ruff format --check
	codespell
	mypy
	lint-imports

format: setup ## Format the code
	ruff check --fix
	ruff format

bench: setup ## Run the benchmarks
	@for script in bench/*.py; do echo "== $$script"; python $$script || exit 1; done

report: setup ## Write reports/index.html and print the ledger
	@python -m stages.report

verify: setup ## Check every byte, count and key of the artifacts that are here
	@python -m stages.verify

preset: setup ## Switch params.yaml to PRESET=sample, small, full or published; datasets of your own stay
	@test -f presets/$(PRESET).yaml || { echo "make preset PRESET=sample|small|full|published"; exit 1; }
	@python -m stages.preset $(PRESET)

add: setup ## Add your own pictures: NAME=my_photos SOURCE=/a/folder [KIND=folder] [DRY=1: write nothing]
	@test -n "$(NAME)" && test -n "$(SOURCE)" || { \
		echo "make add NAME=my_photos SOURCE=/a/folder [KIND=folder|webdataset|parquet|jsonl|csv] [DRY=1]"; exit 1; }
	@python -m stages.add "$(NAME)" "$(SOURCE)" $(if $(KIND),--kind $(KIND)) $(if $(CAPTION),--caption $(CAPTION)) \
		$(if $(IMAGE),--image $(IMAGE)) $(if $(DRY),--dry-run)

remove: setup ## Remove the entry of NAME=my_photos from params.yaml, and say what stays
	@test -n "$(NAME)" || { echo "make remove NAME=my_photos"; exit 1; }
	@python -m stages.remove "$(NAME)"

all: checked $(DATASETS) ## Build the shards of all datasets

.PHONY: checked
checked: setup
	@python -m stages.check

# Not by a bare `dvc repro`, which removes outputs before it looks at settings: see docs/interrupted.md.
$(DATASETS): setup ## Build the shards of one dataset, or fetch them where a DVC remote has them
	@python -m stages.build $@

code: setup ## Write which code each step runs into code/, where an edit made that stale
	@python -m stages.build

remote: setup ## Share data at URL=s3://BUCKET/PREFIX or a folder; ENDPOINT=https://... for MinIO, R2, ...
	@test -n "$(URL)" || { echo "make remote URL=s3://BUCKET/PREFIX [ENDPOINT=https://...] or URL=/a/folder"; exit 1; }
	@dvc remote add --quiet --force --default storage "$(URL)"
	@dvc remote modify storage verify true
	@$(if $(ENDPOINT),dvc remote modify storage endpointurl "$(ENDPOINT)")
	@echo "Written to .dvc/config: commit it. Credentials belong in the environment or in .dvc/config.local (README)."

pull-%: setup ## Fetch one dataset's shards from the DVC remote (pull-coco)
	@python -m stages.check --lock-only
	dvc pull shard@$*

pull: setup ## Fetch all shards from the DVC remote
	@python -m stages.check --lock-only
	dvc pull shard

push: setup ## Check all artifacts and send them to the DVC remote; CHECK=1 also reads what it has
	@python -m stages.push $(if $(CHECK),--read-remote)

clean-work: setup ## Remove finished partitions that no artifact refers to
	@python -m stages.clean_work

restore: setup ## Put the manifests that dvc.lock records in place, from the store that MICRODIFF_STORE names
	@python -m stages.restore

slim: setup ## Leave only the shards of NAME=coco on this disk, once the rest is on the remote
	@test -n "$(NAME)" || { echo "make slim NAME=coco [FORCE=1: also what is not on the remote]"; exit 1; }
	@python -m stages.slim $(NAME) $(if $(FORCE),--force)

gc: setup ## Say what DVC's cache and remote keep that no branch or tag refers to; APPLY=1 [REMOTE=1] removes it
	@python -m stages.check --lock-only
	@python -m stages.gc $(if $(APPLY),--apply) $(if $(REMOTE),--remote)
