# `make demo` trains, scores and shows an avatar generator; `make test` checks everything. All set up .venv first.
python ?= python3

.PHONY: demo test test-long
demo: .venv/installed
	.venv/bin/lightning-avatars fit -c demo

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest

# Kills runs of shipped models, `kills` times in all, and writes experiments/kills/results.json.
kills ?= 100
test-long: .venv/installed
	.venv/bin/python -m experiments.kills.kill_test --kills $(kills)

.venv/installed: pyproject.toml constraints.txt
	$(python) -m venv --clear .venv
	@echo "Installing what constraints.txt pins into .venv; torch is several gigabytes."
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
