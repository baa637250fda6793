# Every target sets up .venv by itself; nothing else has to be prepared than Python 3.11+, pip and make.
# The steps of a target are listed in scripts/steps.py.

# The first interpreter on the path that is new enough; `make book PYTHON=/path/to/python3.12` picks another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)

define run_steps
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	echo 'moxi-lite needs Python 3.11 or newer, and $(if $(PYTHON),"$(PYTHON)" is not,none was found on the path).'; \
	echo 'Install one, or name it: make $@ PYTHON=/path/to/python3.11'; exit 1; }
@$(PYTHON) scripts/steps.py $@
endef

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test notebooks bench study clean

help:  ## list the targets
	@echo 'Targets of moxi-lite (each sets up .venv by itself):'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'

book:  ## run every notebook and render the book to _build/html/index.html
	$(run_steps)

test:  ## linting, types, unit tests, notebooks with the ci profile; SLOW=1 adds the slow tests
	$(run_steps)

notebooks:  ## only run the notebooks; make notebooks PROFILE=ci picks the profile
	$(run_steps)

bench:  ## measure speed, as ratios in one run, to _build/bench.json
	$(run_steps)

study:  ## go on with the ImageNet studies behind results/imagenet: hours, resumable
	$(run_steps)

clean:  ## delete everything that was built, .venv included
	rm -rf _build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
