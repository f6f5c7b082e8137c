# make demo   set everything up, run a real sweep on this machine, write its report
# make test   set everything up, pass all tests
# make lint   style and types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet

# what tests use for real; installed when root, else the tests that need one say so and are skipped
DEBIAN := linux-perf time \
  slurm-wlm slurmd slurmctld slurm-client slurm-wlm-basic-plugins munge slurmdbd mariadb-server-core mariadb-client-core \
  openssh-server openssh-client libpam-oath oathtool
comma := ,
# passive: on a machine that does something else too, threads that spin while they wait would take minutes
SMALL := --size small --steps 20 --omp-wait passive
# one core cannot show scaling: there the demo sweeps the sequence length instead of the threads
DEMO := $(if $(filter 1,$(shell nproc)),--sequence-length 64$(comma)128,--threads 1$(comma)2)

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.installed
	$(BIN)/hpcbench submit --site local --benchmark gpt2 $(DEMO) --batch 2,4 --repeat 2 $(SMALL) --name demo-$$(date +%Y%m%d-%H%M%S) --wait
	$(BIN)/hpcbench parse
	@echo "The report:" && $(BIN)/hpcbench report

test: $(VENV)/test.installed packages
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: packages
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(DEBIAN) >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN); fi

# Debian leaves venv out of python3: as root it is installed, else the one thing to do is said
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "hpcbench needs Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv && $(PYTHON) -m venv $(VENV); } || \
	  { echo "cannot make a virtual environment: install python3-venv, then run make again" >&2; exit 1; }

$(VENV)/demo.installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[torch]'
	@touch $@

$(VENV)/test.installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[torch,inference,serve,notebook,dask,tensorboard,dev]'
	@touch $@
