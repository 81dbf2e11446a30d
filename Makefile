# `make demo` trains, scores and shows an avatar generator; `make test` checks everything. Both set up .venv first.
python ?= python3

.PHONY: demo test
demo: .venv/installed
	.venv/bin/lightning-avatars fit -c demo

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest

.venv/installed: pyproject.toml constraints.txt
	$(python) -m venv --clear .venv
	@echo "Installing what constraints.txt pins into .venv; torch is several gigabytes."
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
