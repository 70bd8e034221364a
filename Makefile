# `make demo` and `make test` do all set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

.PHONY: demo docs test fuzz lint browser golden clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python -m examples.seqnet

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The report's page is tested in a browser: Debian's, where it can be installed.
browser:
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq >/dev/null && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
			>/dev/null; \
	fi; \
	command -v chromium >/dev/null || \
	echo "NO BROWSER could be installed: the test of the report's page will be skipped"

test:
	$(MAKE) --no-print-directory --jobs=2 lint browser
	$(PYTEST) --hypothesis-profile=ci

# The same tests on other random problems each time; `make test` draws the same ones.
fuzz: $(VENV)/ready
	$(PYTEST)

docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

golden: $(VENV)/ready
	$(BIN)/python -m pytest --update-golden

clean:
	rm -rf $(VENV) out build dist *.egg-info
