"""gguf-py reads our blocks as we do; ggml's own blocks are no nearer to the weights than ours."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_native import QUANT_TYPES, dequantize, measure_error, quantize
from support.oracles import ggml

NAMES = [quant_type.name for quant_type in QUANT_TYPES]
LOSSY = [name for name in NAMES if name not in {"F32", "F16", "BF16"}]
READ_BY_GGUF = [name for name in NAMES if name not in {"Q1_0", "Q2_0"}]
NOT_WORSE = 1.01
"""Our squared error over ggml's."""


def heavy_tailed(rows: int, length: int) -> np.ndarray:
    return (np.random.default_rng(7).standard_t(4, (rows, length)) * 0.02).astype(np.float32)


def column_importance(length: int) -> np.ndarray:
    return np.random.default_rng(8).gamma(1.0, 1.0, length).astype(np.float32)


def real_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            yield tensor.name, np.ascontiguousarray(tensor.data, np.float32)


def real_importance(path: Path) -> dict[str, np.ndarray]:
    """Mean squared activation per column, by tensor name."""
    found = {tensor.name: np.asarray(tensor.data, np.float32).ravel() for tensor in gguf.GGUFReader(path).tensors}
    suffix = ".in_sum2"
    return {
        name.removesuffix(suffix): values / found[name.removesuffix(suffix) + ".counts"]
        for name, values in found.items()
        if name.endswith(suffix)
    }


@pytest.mark.parametrize("name", READ_BY_GGUF)
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_gguf_py_reads_our_blocks_as_we_do(name: str, effort: str) -> None:
    weights = heavy_tailed(7, 768)
    weights[3] = 0
    weights[4] *= 1e-6
    for importance in (None, column_importance(768)):
        blocks = quantize(name, weights, importance, effort=effort)
        assert np.array_equal(dequantize(name, blocks, 768), ggml.dequantize(name, blocks, 768))


@pytest.mark.parametrize("name", READ_BY_GGUF)
def test_gguf_py_reads_any_bytes_as_we_do(name: str) -> None:
    row = ggml.BY_NAME[name]
    length = 9 * max(256, row.weights_per_block)
    blocks = np.random.default_rng(9).integers(0, 256, (50, ggml.row_bytes(row, length)), np.uint8)
    ours, theirs = dequantize(name, blocks, length), ggml.dequantize(name, blocks, length)
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_measured_errors_are_those_of_the_blocks(name: str) -> None:
    weights = heavy_tailed(5, 512)
    exact = weights.astype(np.float64)
    for importance in (None, column_importance(512)):
        restored = dequantize(name, quantize(name, weights, importance), 512).astype(np.float64)
        h = np.ones(512) if importance is None else importance.astype(np.float64)
        found = measure_error(name, weights, importance)
        assert found.weighted_squared_error == pytest.approx((h * (exact - restored) ** 2).sum(), rel=1e-9)
        assert found.weighted_energy == pytest.approx((h * exact**2).sum(), rel=1e-9)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("columns", ["alike", "by importance"])
@pytest.mark.parametrize("effort", ["fast", pytest.param("best", marks=pytest.mark.slow)])
def test_no_worse_than_ggml_on_heavy_tails(name: str, columns: str, effort: str) -> None:
    weighted = columns == "by importance"
    if name in ggml.NEEDS_IMPORTANCE and not weighted:
        pytest.skip("ggml aborts on this type without importance")
    weights, importance = heavy_tailed(24, 1024), column_importance(1024) if weighted else None
    theirs = dequantize(name, ggml.quantize(name, weights, importance), 1024)
    found = measure_error(name, weights, importance, effort=effort)
    assert found.weighted_squared_error <= NOT_WORSE * ggml.squared_error(weights, theirs, importance)


def ratios_on_a_real_model(name: str, effort: str, path: Path, importance_of: dict[str, np.ndarray]) -> list[float]:
    """Our weighted squared error over ggml's, of each tensor that both can store as the type."""
    row = ggml.BY_NAME[name]
    ratios = []
    for tensor, all_weights in real_tensors(path):
        weights, importance = (
            np.ascontiguousarray(all_weights[:: max(1, len(all_weights) // 32)]),
            importance_of.get(tensor),
        )
        if weights.shape[1] % row.weights_per_block or (name in ggml.NEEDS_IMPORTANCE and importance is None):
            continue
        theirs = dequantize(name, ggml.quantize(name, weights, importance), weights.shape[1])
        found = measure_error(name, weights, importance, effort=effort)
        ratios.append(found.weighted_squared_error / ggml.squared_error(weights, theirs, importance))
    return ratios


@pytest.mark.parametrize("name", LOSSY)
def test_no_worse_than_ggml_on_a_real_model(name: str, model_path: Path, imatrix_path: Path) -> None:
    ratios = ratios_on_a_real_model(name, "fast", model_path, real_importance(imatrix_path))
    assert ratios
    assert max(ratios) <= NOT_WORSE


@pytest.mark.parametrize("name", [name for name in LOSSY if name not in ggml.NEEDS_IMPORTANCE])
def test_no_worse_than_ggml_on_a_real_model_without_importance(name: str, model_path: Path) -> None:
    assert max(ratios_on_a_real_model(name, "fast", model_path, {})) <= NOT_WORSE


@pytest.mark.slow
def test_effort_best_is_better_than_ggml(model_path: Path, imatrix_path: Path) -> None:
    importance_of = real_importance(imatrix_path)
    ratios = {name: ratios_on_a_real_model(name, "best", model_path, importance_of) for name in LOSSY}
    assert {name: max(found) for name, found in ratios.items() if max(found) > 1.02} == {}
    assert np.median(np.concatenate(list(ratios.values()))) <= 0.99
