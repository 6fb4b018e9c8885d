# Needs only python3 (3.11 or newer) and make; everything else is installed into .venv.
PYTHON ?= python3
JOBS ?= 2
PY := .venv/bin/python
STAMP := .venv/.installed
COMPILE := $(PY) train-biohsic.py data=mnist_5000 nmodels=1 data.limit=60 training.nepochs=1 engine=compiled device=cpu

.PHONY: setup demo figures paper table test test-slurm attack chaos bench docs lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@# without Debian's python3-venv an environment is made that has no pip
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || \
		{ rm -rf .venv; echo "no environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	.venv/bin/uv pip install --python $(PY) --quiet --compile-bytecode -e '.[dev]' -c constraints.txt
	@# compiles the kernels that "make demo" and most of the tests use, those of a window and of a memory side by side
	rm -rf build/setup
	trap 'kill $$!' INT TERM; $(COMPILE) hydra.run.dir=build/setup/window >/dev/null & \
	$(COMPILE) hydra.run.dir=build/setup/delta modulator=delta optimizer=adamw-averaged >/dev/null; code=$$?; \
	wait $$! && exit $$code
	touch $@

# The rule beside the control, its hidden layers frozen, on 5,000 digits of MNIST; projectlib/demo.py has the three commands.
demo: setup
	$(PY) -m projectlib.demo

# Run what has no finished run of every experiment, quick or as the paper has it, then execute plotting.ipynb: build/ has the result.
# SETTINGS="nmodels=5" changes all of them.
figures: setup
	$(PY) -m projectlib.sweeps.experiments --size quick --draw $(SETTINGS)

paper: setup
	$(PY) -m projectlib.sweeps.experiments --draw $(SETTINGS)

# The table of all rules: runs what is missing of it, hours on two cores, and writes docs/table.md and docs/table.png. Its column of
# CIFAR-10 needs images of your own, and is empty unless its runs, of two models each, are in outputs/: make them before, by
# .venv/bin/python -m projectlib.sweeps.experiments table/cifar10 data.root=path/to/images
table: setup
	$(PY) -m projectlib.sweeps.experiments table/mnist table/mnist-searched table/fashion_mnist table/digits table/xor table/depth \
	    $(SETTINGS)
	$(PY) -m projectlib.plotting.table $(SETTINGS)

# JOBS=8 for as many processes at once.
test: setup
	$(PY) -m pytest -n $(JOBS) --dist loadfile

# A sweep on a real Slurm of one node, installed from Debian's packages where it is missing; needs root, minutes.
test-slurm: setup
	$(PY) -m pytest -m slurm -rs tests/slurm

# What docs/reliability.md counts.  FUZZ="--seed 7 --commands 100 --trained 10 --folders 100" tries other things, or fewer.
attack: setup
	$(PY) -m pytest tests/attack
	$(PY) -W ignore tests/attack/fuzz.py $(FUZZ)

chaos: setup
	$(PY) tests/chaos.py --kills 50 $(CHAOS)

# Every row of the speed table, in a quarter of an hour: build/bench/results.md. FLOOR=path/to/compiled/floor times it in turn
# with ours, DATA=folder holds MNIST/raw (random pixels without it), BENCH="--only help cnn --quick" measures less.
bench: setup
	$(PY) -m benchmarks $(if $(FLOOR),--floor $(FLOOR)) $(if $(DATA),--data $(DATA)) $(BENCH)

# The site of docs/, in seconds and without a network: build/site/index.html. Its search needs a server:
# python3 -m http.server -d build/site.  With --quiet mkdocs counts no warning, and --strict lets every broken link pass.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The installation and all compiled kernels, of which those of earlier states of the code pile up until then.
clean:
	rm -rf .venv
	find projectlib -name '*.nb[ic]' -delete
