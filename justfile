# The project's verbs. `just` alone checks and tests, as CI does.

python := env("PYTHON", ".venv/bin/python")
export PATH := if python =~ '/' { parent_directory(python) + ":" + env("PATH") } else { env("PATH") }
native := "find bindings_native/src bindings_native/fuzz bindings_native/checks tests/support/cuda_host -name '*.[ch]pp' -o -name '*.cu' -o -name '*.h' | xargs clang-format --style=file:bindings_native/.clang-format"

default: check test

# A development environment with the native code built in place.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -e '.[dev]'

# Format, lint, types, layers of imports, generated code, workflows.
check:
    {{python}} -m ruff format --check .
    {{python}} -m ruff check .
    {{python}} -m mypy
    {{python}} -c "from importlinter.cli import lint_imports_command as run; run()"
    {{python}} .ci/sources.py
    {{native}} --dry-run --Werror
    {{python}} .ci/generate.py --check
    {{python}} .ci/unasync.py --check
    {{python}} .ci/cli_reference.py --check
    {{python}} -m pre_commit validate-config
    zizmor --offline --no-progress --quiet .github

# Correct what can be corrected without thought: lint, imports, format.
fix:
    {{python}} -m ruff check --fix .
    {{python}} -m ruff format .
    {{native}} -i

# Run the quick checks at every commit, mypy before a push.
hooks:
    {{python}} -m pre_commit install --hook-type pre-commit --hook-type pre-push

# The documentation site, with warnings as errors; open build/docs/index.html.
docs:
    {{python}} -m sphinx --fail-on-warning --fresh-env --quiet docs build/docs
    ! grep -rE '(src|href)="(https?:)?//[^"]+[.](js|css|woff2?)"' --include='*.html' build/docs  # readable offline

# Man pages of the commands, made from their help, in a folder.
man folder="build/man":
    {{python}} -m sphinx -b man --fail-on-warning --quiet docs {{folder}}

# The fast tests, in random order and several processes; `-p no:randomly` for the order of the files, `-n 0` for one.
test *arguments:
    {{python}} -m pytest -n auto --maxprocesses 4 {{arguments}}

# The same with the share of lines and branches that they run, also in the processes that they start.
coverage *arguments:
    {{python}} -m pytest -n auto --maxprocesses 4 --cov --cov-report=term --cov-report=html:build/coverage {{arguments}}

# What needs a GPU: bytes, sums, a hundred million weights of every type, then the figures.
test-gpu:
    {{python}} -m pytest -m "" -p no:randomly -s tests/gpu tests/bench/bench_cuda.py

# Build the extension with the kernels for GPUs into a folder, and import it; needs nvcc, no GPU.
cuda-build folder:
    cmake -S bindings_native -B {{folder}} -DRAQ_CUDA=ON -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(realpath -s {{python}})"
    cmake --build {{folder}} --target _raq_native --parallel
    {{python}} .ci/cuda_import.py {{folder}}

# A wheel for this machine, run without a compiler by PYTHON and the further Pythons named; needs auditwheel and patchelf.
wheels folder="build/wheels" *others:
    .ci/wheels {{python}} {{folder}} {{others}}

# The wheel for Linux on 64-bit ARM, cross-compiled into a folder and tried under emulation; needs Debian (.ci/wheel-arm).
wheel-arm folder="build/wheel-arm":
    .ci/wheel-arm {{python}} {{folder}}

# The server's container image, built by buildah and run; needs root and Debian's buildah and mmdebstrap (.ci/container).
container folder="build/container" *options:
    .ci/container {{python}} {{folder}} {{options}}

# The kernels compiled for 64-bit ARM write the same bytes, under emulation; needs a cross compiler and qemu-user.
check-arm folder:
    .ci/arm {{python}} {{folder}}

# The kernels on hard floats and on any bytes, under the address and undefined-behaviour sanitizers, in a folder.
sanitize folder rounds="2" seed="0":
    cmake -S bindings_native -B {{folder}} -DRAQ_CUDA=OFF -DPython_EXECUTABLE="$(realpath -s {{python}})"
    cmake --build {{folder}} --target raq_fuzz --parallel
    {{folder}}/raq_fuzz {{rounds}} {{seed}}

# What is generated and committed: messages, the blocking client, the reference of the commands, the native stubs.
generate:
    {{python}} .ci/generate.py
    {{python}} .ci/unasync.py
    {{python}} .ci/cli_reference.py
    {{python}} -m nanobind.stubgen -m raq_native._raq_native -p bindings_native/stub.patterns -o bindings_native/raq_native/_raq_native.pyi
    {{python}} -m nanobind.stubgen -m raq_solver.backends._knapsack -o solver/raq_solver/backends/_knapsack.pyi

# Pin what CI installs.
lock:
    {{python}} -m uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate --no-emit-index-url -o .ci/requirements.lock

# Allocations on models with real weights, which are fetched and kept; options as in tests/bench/bench_real.py.
bench-real *arguments:
    {{python}} tests/bench/bench_real.py {{arguments}}

# What error feedback is worth on a model; options as in tests/bench/bench_compensation.py.
bench-compensation *arguments:
    {{python}} tests/bench/bench_compensation.py {{arguments}}

# What rounded inputs cost, predicted and measured: MODEL --imatrix FILE --judged FOLDER.
bench-rounded-inputs *arguments:
    {{python}} tests/bench/bench_rounded_inputs.py {{arguments}}

# What rounding blocks one after the other is worth: MODEL --imatrix FILE --gram FILE --judged FOLDER.
bench-sequential *arguments:
    {{python}} tests/bench/bench_sequential.py {{arguments}}

# Predicted losses against measured KL divergence: MODEL --imatrix FILE [--gram FILE] --own FOLDER --others FOLDER.
bench-predictions *arguments:
    {{python}} tests/bench/bench_predictions.py {{arguments}}

# How often intervals of predictions hold: MODEL --own FOLDER --save FILE, then --draw FILE,FILE… --plot PICTURE.
bench-coverage *arguments:
    {{python}} tests/bench/bench_coverage.py {{arguments}}

# Losses without gradients against those from Fisher information: MODEL.gguf=IMATRIX.gguf …
bench-default-losses *arguments:
    {{python}} tests/bench/bench_default_losses.py {{arguments}}

# What Ray and parts cost beside the work, and ten thousand models a day, simulated.
bench-scale *arguments:
    {{python}} -m pytest -m bench -p no:randomly -s tests/bench/bench_scale.py tests/bench/bench_fleet.py {{arguments}}

# What calibrating for a use buys there and costs elsewhere; options as in tests/bench/bench_domains.py.
bench-domains *arguments:
    {{python}} tests/bench/bench_domains.py {{arguments}}

# Figures; each bench prints a table.
bench *arguments:
    {{python}} -m pytest -m bench -p no:randomly --benchmark-enable -s tests/bench {{arguments}}
