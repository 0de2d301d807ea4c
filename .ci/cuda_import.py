"""Import a CUDA build of the extension, and quantize on the CUDA devices of this machine.

Usage: python .ci/cuda_import.py FOLDER, which contains _raq_native of a CUDA build.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np


def main() -> int:
    """0 if the extension imports and writes the processor's bytes, or fails with one sentence if there is no device."""
    (path,) = Path(sys.argv[1]).glob("_raq_native.*.so")
    spec = spec_from_file_location("_raq_native", path)
    assert spec is not None
    assert spec.loader is not None
    native = module_from_spec(spec)
    sys.modules[spec.name] = native  # kept to the end, as after an import
    spec.loader.exec_module(native)
    assert native.cuda_built
    devices = native.cuda_devices()
    weights = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(4, 1024)
    if devices:
        found = native.quantize("Q4_K", weights, device="cuda")
        assert np.array_equal(found, native.quantize("Q4_K", weights))
        print(f"{devices}: the same bytes as the processor")
        return 0
    try:
        native.quantize("Q4_K", weights, device="cuda")
    except RuntimeError as error:
        print(f"no device on this machine; the call failed with: {error}")
        return 0 if str(error).startswith("no CUDA device") else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
