# DistilWhisper Lab: `make help` lists the commands.
PRESET ?= laptop
NOTEBOOKS ?=
PYTHON ?= python3
JOBS ?= 2
GPU ?=
PY = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup course test lab clean distclean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r command text; do \
		printf '%-15s %s\n' "$$command" "$$text"; done
	@echo "Variables: PRESET=$(PRESET) (smoke, laptop, colab), NOTEBOOKS (such as 06 07), PYTHON=$(PYTHON) (3.11 or newer), JOBS=$(JOBS) (tests), GPU=1 (PyTorch for NVIDIA GPUs)"

setup: ## make the environment in .venv (the other commands do it when needed); GPU=1: with PyTorch for NVIDIA GPUs
	@$(PYTHON) tools/setup_env.py $(if $(filter-out 0,$(GPU)),--gpu)

course: setup ## run notebooks 00 to 05 in order at PRESET, then print the main table; or those of NOTEBOOKS
	@LAB_PRESET=$(PRESET) $(PY) -m distilwhisper_lib.lab.course $(if $(NOTEBOOKS),--only $(NOTEBOOKS))

test: setup ## run the tests: no download, under 10 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal

lab: setup ## open the notebooks in JupyterLab
	@LAB_PRESET=$(PRESET) $(PY) -m jupyter lab notebooks

clean: ## remove results and training runs; keep the environment, weights and speech, and results/reference
	@find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} + 2>/dev/null || true
	@rm -rf "$${LAB_CACHE:-cache}/runs"
	@find distilwhisper_lib tests tools notebooks -name __pycache__ -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove everything that the commands made, downloads and environment included
	@rm -rf .venv cache build .pytest_cache *.egg-info
