# DistilWhisper Lab: `make help` lists the commands.
PRESET ?= laptop
NOTEBOOKS ?=
PYTHON ?= python3
JOBS ?= 2
GPU ?=
# set on the command line alone: some systems have an environment variable NAME of their own
ARGS =
NAME =
PY = .venv/bin/python
BOOK = .venv-book/bin/python
DEMO = .venv-demo/bin/python
LIBRARY = distilwhisper_lib
BENCHMARKS = inference training memory storage transcription preparation
# grid and estimates have the preset "paper" where none is asked for, notebooks opened by hand and the demo "toy"
PRESET_GIVEN = $(if $(filter-out file,$(origin PRESET)),--preset $(PRESET))
PRESET_OF_LAB = $(if $(filter-out file,$(origin PRESET)),$(PRESET),toy)

.DEFAULT_GOAL := help
.PHONY: help setup course lab demo test test-all test-colab lint format book slides handout teacher study claims toy grid estimates smaller convergence benchmark clean distclean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r command text; do \
		printf '%-17s %s\n' "$$command" "$$text"; done
	@echo "Variables: PRESET=$(PRESET) (smoke, toy, laptop, colab), NOTEBOOKS (such as 06 07), PYTHON=$(PYTHON) (3.11 or newer), JOBS=$(JOBS) (tests), GPU=1 (PyTorch for NVIDIA GPUs), ARGS (of the program; ARGS=--help lists them), NAME (of a benchmark)"

setup: ## make the environment in .venv (the other commands do it when needed); GPU=1: with PyTorch for NVIDIA GPUs
	@$(PYTHON) tools/setup_env.py $(if $(filter-out 0,$(GPU)),--gpu)

course: setup ## run notebooks 00 to 05 and the appendix at PRESET, then print the main table; or those of NOTEBOOKS
	@LAB_PRESET=$(PRESET) $(PY) -m $(LIBRARY) course $(if $(NOTEBOOKS),--only $(NOTEBOOKS)) $(ARGS)

lab: setup ## open the notebooks in JupyterLab, at the preset toy unless PRESET says another
	@LAB_PRESET=$(PRESET_OF_LAB) $(PY) -m jupyter lab notebooks $(ARGS)

demo: setup ## open a local page: one sound, all trained systems, at the preset toy unless PRESET says another
	@$(PYTHON) tools/setup_env.py --demo
	@LAB_PRESET=$(PRESET_OF_LAB) $(DEMO) -m $(LIBRARY) demo --python $(PY) $(ARGS)

test: setup ## run the tests: no download, some 9 minutes on 2 cores; ARGS="tests/test_losses.py" runs some of them
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

test-all: test book ## all tests: make test, then book, slides and demo in a browser (Chromium)
	@$(BOOK) tools/book.py browser
	@$(MAKE) --no-print-directory slides
	@$(BOOK) -m pytest -q --confcutdir=tests/book tests/book
	@$(PYTHON) tools/setup_env.py --demo
	@$(BOOK) -m pytest -q --confcutdir=tests/demo tests/demo

test-colab: ## run the tests with the versions of packages that Colab has, in .venv-colab; ARGS as for test
	@$(PYTHON) tools/colab_env.py
	@OMP_NUM_THREADS=1 .venv-colab/bin/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

lint: setup ## check format, style and types; changes nothing
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

format: setup ## format the code, and fix what ruff can fix
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

book: ## make the book in build/book: notebooks, docs and the library's names as one site
	@$(PYTHON) tools/setup_env.py --book
	@$(BOOK) tools/book.py pages

slides: ## make the slides of docs/teach in build/slides, as HTML and PDF
	@$(PYTHON) tools/setup_env.py --book
	@$(BOOK) tools/book.py slides

handout: ## make the students' edition in build/handout.zip: no outputs, no solutions, no readable answers
	@$(PYTHON) tools/handout.py students $(ARGS)

teacher: setup ## make the teacher's edition in build/teacher.zip: solutions, model answers, wrong answers, pages
	@OMP_NUM_THREADS=1 $(PY) tools/handout.py teacher $(ARGS)

study: setup ## longer studies at PRESET: make study ARGS="tune --systems lora"
	@LAB_PRESET=$(PRESET) $(PY) -m $(LIBRARY) study $(ARGS)

claims: setup ## the paper's claims with real speech, folds and seeds: make claims ARGS="run" (tune, run, causes, tables)
	@$(PY) -m $(LIBRARY) claims $(ARGS)

toy: setup ## the paper with toy languages: make toy ARGS="seeds" (models, tune, seeds, knobs)
	@$(PY) -m $(LIBRARY) toy $(ARGS)

grid: setup ## the paper's experiments as a list of jobs: make grid ARGS="list"
	@$(PY) -m $(LIBRARY) grid $(PRESET_GIVEN) $(ARGS)

estimates: setup ## hours and memory of a run, computed and not measured: make estimates ARGS="--preset colab"
	@$(PY) -m $(LIBRARY) estimates $(PRESET_GIVEN) $(ARGS)

smaller: setup ## size and WER of smaller experts at PRESET: in 8 bits, of low rank, baked
	@LAB_PRESET=$(PRESET) $(PY) -m $(LIBRARY) smaller $(ARGS)

convergence: setup ## what the steps that make training cheap change in WER, at PRESET
	@LAB_PRESET=$(PRESET) $(PY) -m $(LIBRARY) convergence $(ARGS)

benchmark: setup ## measure time, memory or size: make benchmark NAME=inference (training, memory, storage, transcription, preparation)
	$(if $(filter $(BENCHMARKS),$(NAME)),,$(error NAME is one of $(BENCHMARKS): make benchmark NAME=inference))
	@$(PY) -m benchmarks.$(NAME) $(ARGS)

clean: ## remove results and training runs; keep the environment, weights and speech, and results/reference
	@find "$${LAB_RESULTS:-results}" -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} + 2>/dev/null || true
	@rm -rf "$${LAB_CACHE:-cache}/runs"
	@find $(LIBRARY) benchmarks docs tests tools notebooks -name __pycache__ -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove everything that the commands made, downloads and environment included; keep speech of your own
	@find "$${LAB_CACHE:-cache}" -mindepth 1 -maxdepth 1 ! -name data -exec rm -rf {} + 2>/dev/null || true
	@rm -rf .venv .venv-book .venv-demo .venv-colab build .mypy_cache .pytest_cache .ruff_cache *.egg-info
