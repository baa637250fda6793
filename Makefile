# Every target sets up .venv by itself; nothing else has to be prepared than Python 3.11+, pip and make.
SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test notebooks bench study freeze clean

# The first interpreter on the path that is new enough; `make book PYTHON=/path/to/python3.12` picks another.
IS_NEW = -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$p $(IS_NEW); then echo $$p; break; fi; done)
PROFILE ?= $(if $(filter 1 true,$(CI)),ci,auto)

# On a busy machine OpenMP's threads lose minutes by spinning while they wait for each other.
RUN = OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} .venv/bin/python -u
define step
@echo '[$@] $(1)'
@$(2) || { echo 'make $@ stopped at this step: $(1)' >&2; exit 1; }
endef

help:  ## list the targets
	@echo 'Targets of moxi-lite (each sets up .venv by itself):'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'

# What .venv is made for: this folder and this Python. Another of either makes it anew.
KEY := $(shell { pwd; $(PYTHON) -c 'import sys; print(sys.version_info[:2])'; } 2>/dev/null | cksum | cut -d' ' -f1)
INSTALLED := .venv/installed-$(KEY)
PIP = .venv/bin/python -m pip install --no-input
# Of pip's output, what tells how far it has come.
SHOW = 2>&1 | tee _build/logs/pip.txt | { grep --line-buffered -oE '(Downloading|Using cached) .*\(([0-9.]+ GB|[0-9]{2,}[0-9.]* MB)\)|Building .*: started|Installing collected packages: .{60}|Successfully installed|^ERROR.*' || true; }

.venv/made-$(KEY):
	@$(PYTHON) $(IS_NEW) || { \
		echo 'moxi-lite needs Python 3.11 or newer, and $(if $(PYTHON),"$(PYTHON)" is not,none was found on the path).'; \
		echo 'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'; exit 1; }
	@echo "[.venv] making it with $$($(PYTHON) -V)"; rm -rf .venv
	@# Debian splits off what fills an environment with pip; a pip that is there can do that, too.
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 \
		|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install -q pip; } \
		|| { echo 'That needs venv and pip (Debian, Ubuntu: apt-get install python3-venv).'; exit 1; }
	@touch $@

$(INSTALLED): requirements.txt constraints.txt pyproject.toml | .venv/made-$(KEY)
	@echo '[.venv] installing requirements.txt, several GB the first time; all that pip says: _build/logs/pip.txt'
	@mkdir -p _build/logs; set -o pipefail; $(PIP) -r requirements.txt -c constraints.txt $(SHOW) || { \
		echo 'NOTE: the versions of constraints.txt cannot be installed here; trying the ranges of requirements.txt.'; \
		$(PIP) -r requirements.txt $(SHOW); } || { \
		tail -n 20 _build/logs/pip.txt; echo 'pip could not install requirements.txt, see above.'; exit 1; }
	@$(PIP) -q --no-deps -e .
	@touch $@

book: $(INSTALLED)  ## run every notebook and render the book to _build/html/index.html
	@mkdir -p _build/logs
	$(call step,running the notebooks (profile $(PROFILE)),$(RUN) scripts/run_notebooks.py --profile $(PROFILE))
	$(call step,collecting the pages,$(RUN) scripts/stage_book.py --profile $(PROFILE))
	$(call step,rendering the pages (Jupyter Book),.venv/bin/jupyter-book build _build/stage --path-output . -n -W --keep-going -q >_build/logs/jupyter-book.txt)
	$(call step,reading the rendered pages,$(RUN) scripts/check_pages.py _build/html)
	$(call step,opening the pages in a browser,$(RUN) scripts/check_browser.py _build/html)
	@ln -sfn html _build/moxi-lite-book
	$(call step,packing the pages,cd _build && ../.venv/bin/python -m zipfile -c moxi-lite-book.zip moxi-lite-book/)
	@echo 'The book:    _build/html/index.html'
	@echo 'In one file: _build/moxi-lite-book.zip'

test: $(INSTALLED)  ## linting, types, unit tests, notebooks with the ci profile; SLOW=1 adds the slow tests
	@mkdir -p _build/logs
	$(call step,linting (ruff),$(RUN) -m ruff check .)
	$(call step,checking types (mypy),$(RUN) -m mypy)
	$(call step,unit tests (pytest),set -o pipefail; $(RUN) -m pytest -rs $(if $(filter-out 0,$(SLOW)),,-m "not slow") 2>&1 | tee _build/logs/pytest.txt)
	$(call step,running the notebooks (profile ci),$(RUN) scripts/run_notebooks.py --profile ci)

notebooks: $(INSTALLED)  ## only run the notebooks; make notebooks PROFILE=ci picks the profile
	$(call step,running the notebooks (profile $(PROFILE)),$(RUN) scripts/run_notebooks.py --profile $(PROFILE))

bench: $(INSTALLED)  ## measure speed, as ratios in one run, to _build/bench.json
	$(call step,measuring speed (about 5 minutes),.venv/bin/python -u -m benchmarks.bench)

study: $(INSTALLED)  ## go on with the ImageNet studies behind results/imagenet: hours, resumable
	$(call step,studying ImageNet samples with vit_tiny_patch16_224,$(RUN) scripts/run_imagenet_study.py --model vit_tiny_patch16_224)
	$(call step,studying ImageNet samples with deit_tiny_patch16_224,$(RUN) scripts/run_imagenet_study.py --model deit_tiny_patch16_224)
	$(call step,studying ImageNet samples with efficientnet_lite0,$(RUN) scripts/run_imagenet_study.py --model efficientnet_lite0)
	$(call step,comparing masks and models,$(RUN) scripts/run_masks_and_models.py)
	$(call step,explaining classes that are not predicted,$(RUN) scripts/run_target_class.py)
	$(call step,measuring whether first patches say the same,$(RUN) scripts/run_similar_information.py)
	$(call step,attacking the headline,$(RUN) scripts/run_is_it_real.py)

freeze: $(INSTALLED)  ## write the versions in .venv to constraints.txt, after a green run
	@{ echo "# The exact versions of the last green run, with $$(.venv/bin/python -V) on $$(uname -sm). Written by: make freeze"; \
		.venv/bin/python -m pip freeze --exclude-editable | grep ==; } > constraints.txt; touch $(INSTALLED)

clean:  ## delete everything that was built, .venv included
	rm -rf _build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
