"""The CUDA sources, built for this processor and run on emulated devices (tests/support/cuda_host).

`library()` builds them; the result is kept in build/, in a folder named by the digest of its sources. `Machine` has the
functions of `raq_native` for `device="cuda…"`, and controls the devices.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import raq_native
from support.paths import ROOT

NATIVE = ROOT / "bindings_native"
HOST = ROOT / "tests" / "support" / "cuda_host"
SOURCES = (
    *(NATIVE / "src" / "cuda" / f"{name}.cu" for name in ("kernels", "feedback", "pipeline", "quantize")),
    NATIVE / "src" / "quantizer.cpp",
    *(HOST / name for name in ("runtime.cpp", "fibers.cpp", "exports.cpp")),
)
FLAGS = ("-std=c++20", "-fPIC", "-ffp-contract=off", "-pthread")
NOT_BUILT = {"cpu", "knapsack", "checks", "fuzz", "bindings.cpp"}
"""Folders and files of the native code that are no part of it."""
SLOW = "kernels.cu"
"""The source worth optimizing, a little: at -O2 its build takes ten seconds more, and the tests save two. The others
are built together, which reads the headers of the library once, and without optimizing."""
DEFINES = ("-DRAQ_LEVEL=cuda_level", "-DRAQ_LANES=1")
MIB = 2**20
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "c++"))


@cache
def library() -> ctypes.CDLL:
    """The shared library; built if it is not there yet."""
    digest = hashlib.sha256(" ".join((str(compiler()), *FLAGS, *map(str, SOURCES))).encode())
    for folder in (NATIVE, HOST):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".cu", ".cpp", ".hpp", ".h", ".def", ".py"} and not NOT_BUILT & set(path.parts):
                digest.update(path.read_bytes())
    folder = ROOT / "build" / "cuda_host" / digest.hexdigest()[:16]
    built = folder / "cuda_host.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes wait for the first to build it
        if not built.exists():
            _build(folder, built)
    found = ctypes.CDLL(str(built))
    found.emulated_reset.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        ctypes.c_uint64,
        ctypes.c_double,
        ctypes.c_int,
    ]
    found.emulated_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    return found


def _build(folder: Path, built: Path) -> None:
    subprocess.run([sys.executable, NATIVE / "generate_codebooks.py", folder / "codebooks.hpp"], check=True)
    includes = [f"-I{place}" for place in (HOST, NATIVE / "src", folder)]
    others = folder / "others.cpp"
    others.write_text("".join(f'#include "{source}"\n' for source in SOURCES if source.name != SLOW), encoding="utf-8")
    kernels = next(source for source in SOURCES if source.name == SLOW)
    objects, running = [], []
    for source, level in ((kernels, "-Og"), (others, "-O0")):
        made = folder / f"{source.name}.o"
        objects.append(made)
        command = [str(compiler()), level, *FLAGS, *DEFINES, *includes, "-x", "c++", "-c", source, "-o", made]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = "".join(process.communicate()[1] for process in running)
    assert not any(process.returncode for process in running), said
    fresh = built.with_suffix(".fresh")
    subprocess.run([str(compiler()), "-shared", "-pthread", *objects, "-o", fresh], check=True)
    fresh.rename(built)
    for made in objects:
        made.unlink()


@dataclass(frozen=True)
class Counts:
    """What the emulated runtime has seen since the reset, and what there is now."""

    calls: int
    busiest: int
    freed_in_use: int
    allocations: int
    streams: int
    queued: int
    launches: tuple[int, ...]


@dataclass(frozen=True)
class Sums:
    """As raq_native.ErrorSums."""

    weighted_squared_error: float
    weighted_energy: float


def sums_of(found: raq_native.ErrorSums) -> Sums:
    """The fields of native sums."""
    return Sums(found.weighted_squared_error, found.weighted_energy)


@dataclass(frozen=True)
class Device:
    """An emulated device: compute capability times ten, and bytes of memory."""

    capability: int = 90
    memory: int = 64 * MIB


@dataclass(frozen=True)
class Found:
    """As raq_native.CudaDevice."""

    number: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    usable: bool


class Machine:
    """An emulated machine, and raq's functions on it."""

    def __init__(self) -> None:
        self._native = library()

    def reset(self, *devices: Device, seed: int = 0, eagerness: float = 0.5, together: bool = False) -> None:
        """Give back what is kept, then be a machine with these devices; `together`, all of them take part."""
        self.cuda_release()
        capabilities = np.array([device.capability for device in devices], np.int32)
        memory = np.array([device.memory for device in devices], np.uint64)
        self._native.emulated_reset(
            len(devices), capabilities.ctypes.data, memory.ctypes.data, seed, eagerness, together
        )

    def fail(self, call: str, n: int = 1, code: int = ILLEGAL_ADDRESS) -> None:
        """Let the n-th call of this name ("any": of anything) from now on fail."""
        self._native.emulated_fail(call.encode(), n, code)

    def counts(self) -> Counts:
        """What happened."""
        found = (ctypes.c_long * 10)()
        self._native.emulated_counts(found)
        return Counts(*found[:6], tuple(found[6:]))

    def cuda_release(self) -> None:
        """As in raq_native."""
        self._native.raq_release()

    def cuda_devices(self) -> list[Found]:
        """As in raq_native."""
        text = ctypes.create_string_buffer(4096)
        self._native.raq_devices(text, ctypes.c_size_t(4096))
        lines = [line.split() for line in text.value.decode().splitlines()]
        return [
            Found(int(number), name, (int(major), int(minor)), int(memory), usable == "1")
            for number, name, major, minor, memory, usable in lines
        ]

    def quantize(
        self,
        quant_type: str,
        weights: np.ndarray,
        importance: np.ndarray | None = None,
        *,
        effort: str = "fast",
        device: str = "cuda",
        threads: int = 0,
    ) -> np.ndarray:
        """As in raq_native."""
        blocks = _blocks(quant_type, weights)
        self._call("quantize", quant_type, *_rows(weights, importance), _effort(effort), device, blocks)
        return blocks

    def quantize_with_feedback(
        self,
        quant_type: str,
        weights: np.ndarray,
        factor: np.ndarray,
        row_factor: np.ndarray | None = None,
        *,
        effort: str = "fast",
        device: str = "cuda",
        threads: int = 0,
    ) -> np.ndarray:
        """As in raq_native."""
        blocks = _blocks(quant_type, weights)
        given = (quant_type, weights, factor, row_factor, *_shape(weights))
        self._call("quantize_with_feedback", *given, _effort(effort), device, blocks)
        return blocks

    def dequantize(
        self, quant_type: str, blocks: np.ndarray, row_length: int, *, device: str = "cuda", threads: int = 0
    ) -> np.ndarray:
        """As in raq_native."""
        weights = np.empty((len(blocks), row_length), np.float32)
        self._call("dequantize", quant_type, blocks, *_shape(weights), device, weights)
        return weights

    def measure_errors(
        self,
        quant_types: Sequence[str],
        weights: np.ndarray,
        importance: np.ndarray | None = None,
        *,
        effort: str = "fast",
        device: str = "cuda",
        threads: int = 0,
    ) -> list[Sums]:
        """As in raq_native."""
        sums = np.empty((len(quant_types), 2))
        self._call("measure", " ".join(quant_types), *_rows(weights, importance), _effort(effort), device, sums)
        return [Sums(*row) for row in sums.tolist()]

    def _call(self, name: str, *arguments: object) -> None:
        message = ctypes.create_string_buffer(1000)
        given = [_argument(argument) for argument in arguments]
        code = self._native[f"raq_{name}"](*given, message, ctypes.c_size_t(1000))
        error = {0: None, 1: ValueError, 2: RuntimeError, 3: MemoryError}[code]
        if error is not None:
            raise error(message.value.decode())


def _type(name: str) -> raq_native.QuantType:
    return next(each for each in raq_native.QUANT_TYPES if each.name == name)


def _blocks(quant_type: str, weights: np.ndarray) -> np.ndarray:
    known = _type(quant_type)
    return np.empty((len(weights), weights.shape[1] * known.bytes_per_block // known.weights_per_block), np.uint8)


def _effort(name: str) -> ctypes.c_int:
    return ctypes.c_int(("fast", "best").index(name))


def _shape(array: np.ndarray) -> tuple[ctypes.c_int64, ...]:
    return tuple(ctypes.c_int64(size) for size in array.shape)


def _rows(weights: np.ndarray, importance: np.ndarray | None) -> tuple[object, ...]:
    return (weights, importance, *_shape(weights))


def _argument(argument: object) -> object:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    return argument.encode() if isinstance(argument, str) else argument
