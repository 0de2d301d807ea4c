"""gguf-py reads our blocks as we do; ggml's own blocks are no nearer to the weights than ours."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from raq_native import QUANT_TYPES, dequantize, measure_error, quantize
from support.gguf_files import Reader
from support.oracles import ggml
from support.paths import DATA

Rows = tuple[np.ndarray, np.ndarray | None]
"""Weights, and the importance of their columns."""
NAMES = [quant_type.name for quant_type in QUANT_TYPES]
LOSSY = [name for name in NAMES if name not in {"F32", "F16", "BF16"}]
READ_BY_GGUF = [name for name in NAMES if name not in {"Q1_0", "Q2_0"}]
NOT_WORSE = 1.01
"""Our squared error over ggml's."""
KEPT = DATA / "ggml_errors.json"
"""ggml's weighted squared errors of types whose tables take it seconds to make: by type, and by tensor."""
TABLES_TAKE_LONG = ("IQ1_S", "IQ1_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
WITHOUT = " without importance"
EACH = pytest.mark.parametrize("each", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
"""One tensor in so many of a model."""


def heavy_tailed(rows: int, length: int) -> np.ndarray:
    return (np.random.default_rng(7).standard_t(4, (rows, length)) * 0.02).astype(np.float32)


def column_importance(length: int) -> np.ndarray:
    return np.random.default_rng(8).gamma(1.0, 1.0, length).astype(np.float32)


@cache
def real_tensors(path: Path) -> dict[str, np.ndarray]:
    """Some rows of each matrix."""
    return {
        tensor.name: np.ascontiguousarray(tensor.data[:: max(1, len(tensor.data) // 32)], np.float32)
        for tensor in Reader(path).tensors
        if len(tensor.shape) == 2
    }


@cache
def real_importance(path: Path) -> dict[str, np.ndarray]:
    """Mean squared activation per column, by tensor name."""
    found = {tensor.name: np.asarray(tensor.data, np.float32).ravel() for tensor in Reader(path).tensors}
    suffix = ".in_sum2"
    return {
        name.removesuffix(suffix): values / found[name.removesuffix(suffix) + ".counts"]
        for name, values in found.items()
        if name.endswith(suffix)
    }


def errors_of_ggml(name: str, cases: Mapping[str, Rows]) -> dict[str, float]:
    """ggml's weighted squared error in each case."""
    found = {}
    for case, (weights, importance) in cases.items():
        restored = dequantize(name, ggml.quantize(name, weights, importance), weights.shape[1])
        found[case] = ggml.squared_error(weights, restored, importance)
    return found


def known_errors(name: str, cases: Mapping[str, Rows]) -> dict[str, float]:
    """The same; for types whose tables take long, as kept (a slow test makes them again)."""
    if name not in TABLES_TAKE_LONG:
        return errors_of_ggml(name, cases)
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8"))[name]
    return {case: kept[case] for case in cases}


def heavy_tails(name: str, columns: str) -> dict[str, Rows]:
    weighted = columns == "by importance"
    if name in ggml.NEEDS_IMPORTANCE and not weighted:
        return {}
    return {f"heavy tails, columns {columns}": (heavy_tailed(24, 1024), column_importance(1024) if weighted else None)}


def real_rows(name: str, path: Path, importance_of: Mapping[str, np.ndarray], each: int = 1) -> dict[str, Rows]:
    """Some rows of each tensor, or of one in `each`, that ggml can store as the type."""
    found: dict[str, Rows] = {}
    for tensor, rows in list(real_tensors(path).items())[::each]:
        importance = importance_of.get(tensor)
        if rows.shape[1] % ggml.BY_NAME[name].weights_per_block:
            continue
        if importance is None and name in ggml.NEEDS_IMPORTANCE:
            continue
        found[tensor if importance is not None else tensor + WITHOUT] = (rows, importance)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES_TAKE_LONG)
def test_kept_errors_are_ggmls(name: str, model_path: Path, imatrix_path: Path) -> None:
    """`errors_of_ggml(name, all_cases(…))` of each type is what the file keeps."""
    cases = all_cases(name, model_path, imatrix_path)
    assert known_errors(name, cases) == pytest.approx(errors_of_ggml(name, cases), rel=1e-6)


def all_cases(name: str, model_path: Path, imatrix_path: Path) -> dict[str, Rows]:
    heavy = heavy_tails(name, "alike") | heavy_tails(name, "by importance")
    return heavy | real_rows(name, model_path, {}) | real_rows(name, model_path, real_importance(imatrix_path))


@pytest.mark.parametrize("name", READ_BY_GGUF)
@pytest.mark.parametrize("effort", ["fast", pytest.param("best", marks=pytest.mark.exhaustive)])
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
    cases = heavy_tails(name, columns)
    if not cases:
        pytest.skip("ggml aborts on this type without importance")
    assert max(ratios(name, effort, cases)) <= NOT_WORSE


def ratios(name: str, effort: str, cases: Mapping[str, Rows]) -> list[float]:
    """Our weighted squared error over ggml's, of each case."""
    theirs = known_errors(name, cases)
    return [
        measure_error(name, weights, importance, effort=effort).weighted_squared_error / theirs[case]
        for case, (weights, importance) in cases.items()
    ]


@pytest.mark.parametrize("name", LOSSY)
@EACH
def test_no_worse_than_ggml_on_a_real_model(name: str, each: int, model_path: Path, imatrix_path: Path) -> None:
    found = ratios(name, "fast", real_rows(name, model_path, real_importance(imatrix_path), each))
    assert found
    assert max(found) <= NOT_WORSE


@pytest.mark.parametrize("name", [name for name in LOSSY if name not in ggml.NEEDS_IMPORTANCE])
@EACH
def test_no_worse_than_ggml_on_a_real_model_without_importance(name: str, each: int, model_path: Path) -> None:
    assert max(ratios(name, "fast", real_rows(name, model_path, {}, each))) <= NOT_WORSE


@pytest.mark.slow
def test_effort_best_is_better_than_ggml(model_path: Path, imatrix_path: Path) -> None:
    importance_of = real_importance(imatrix_path)
    by_type = {name: ratios(name, "best", real_rows(name, model_path, importance_of)) for name in LOSSY}
    assert {name: max(found) for name, found in by_type.items() if max(found) > 1.02} == {}
    assert np.median(np.concatenate(list(by_type.values()))) <= 0.99
