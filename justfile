# The project's verbs. `just` alone checks and tests, as CI does.

python := env("PYTHON", ".venv/bin/python")

default: check test

# A development environment with the native code built in place.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -e '.[dev]'

# Format, lint, types, floors, generated code.
check:
    {{python}} -m ruff format --check .
    {{python}} -m ruff check .
    {{python}} -m mypy
    {{python}} -c "from importlinter.cli import lint_imports_command as run; run()"
    {{python}} .ci/sources.py
    find bindings_native/src bindings_native/fuzz -name '*.[ch]pp' -o -name '*.cu' | xargs clang-format --dry-run --Werror
    {{python}} .ci/generate.py --check

test *arguments:
    {{python}} -m pytest {{arguments}}

# What needs a GPU.
test-gpu:
    {{python}} -m pytest tests/gpu

# Compile the kernels for GPUs into a folder; needs nvcc, no GPU.
cuda-build folder:
    cmake -S bindings_native -B {{folder}} -DRAQ_CUDA=ON -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(realpath -s {{python}})"
    cmake --build {{folder}} --target raq_cuda

# The kernels on hard floats and on any bytes, under the address and undefined-behaviour sanitizers, in a folder.
sanitize folder rounds="2" seed="0":
    cmake -S bindings_native -B {{folder}} -DRAQ_CUDA=OFF -DPython_EXECUTABLE="$(realpath -s {{python}})"
    cmake --build {{folder}} --target raq_fuzz --parallel 2
    {{folder}}/raq_fuzz {{rounds}} {{seed}}

# Generated code: messages and the native stubs.
generate:
    {{python}} .ci/generate.py
    {{python}} -m nanobind.stubgen -m raq_native._raq_native -p bindings_native/stub.patterns -o bindings_native/raq_native/_raq_native.pyi
    {{python}} -m nanobind.stubgen -m raq_solver.backends._knapsack -o solver/raq_solver/backends/_knapsack.pyi

# Pin what CI installs.
lock:
    {{python}} -m uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate --no-emit-index-url -o .ci/requirements.lock

# Figures; each bench prints a table.
bench *arguments:
    {{python}} -m pytest -m bench --benchmark-enable -s tests/bench {{arguments}}
