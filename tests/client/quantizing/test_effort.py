"""The effort of tensors against the kernels themselves."""

import time

import numpy as np

import raq_native
from raq_client.quantizing.effort import quantizing_work
from raq_solver.quant_types import CATALOGUE, quant_type
from raq_solver.tensors import Tensor

SHAPE = (2048, 64)


def _effort(name: str, source: str = "F16") -> float:
    tensor = Tensor("blk.0.attn_q.weight", SHAPE, quant_type(source))
    ((size, effort),) = quantizing_work({tensor: quant_type(name)}).values()
    assert size == quant_type(name).size(tensor.weights)
    return effort


def test_every_type_that_raq_writes_has_an_effort() -> None:
    efforts = {each.name: _effort(each.name) for each in raq_native.QUANT_TYPES if each.name in CATALOGUE}
    assert min(efforts.values()) >= _effort("F16")  # copied
    assert len(set(efforts.values())) > len(efforts) / 2


def test_types_that_differ_much_take_that_much_longer() -> None:
    """In processor time, between types whose efforts differ by a factor of 4."""
    weights = np.random.default_rng(0).standard_normal((SHAPE[1], SHAPE[0])).astype(np.float32)
    importance = np.ones(SHAPE[0], np.float32)

    def seconds(name: str) -> float:
        took = []
        for _ in range(3):
            began = time.process_time()
            raq_native.quantize(name, weights, importance, threads=1)
            took.append(time.process_time() - began)
        return min(took)

    pairs = (("Q8_0", "Q4_K"), ("Q4_0", "IQ3_XXS"))
    assert all(_effort(more) > 4 * _effort(less) for less, more in pairs)
    assert all(seconds(more) > 2 * seconds(less) for less, more in pairs)
