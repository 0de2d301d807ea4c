"""Tensors rounded ahead: in the order asked for, each once, and errors where their tensor is asked for."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from raq_client.quantizing.ahead import rounded_ahead
from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

WANTED = CATALOGUE["Q4_0"]
TENSORS = [Tensor(f"blk.{i}.ffn_up.weight", (32, 32), CATALOGUE["F16" if i % 3 else "Q4_0"]) for i in range(12)]
TYPES = dict.fromkeys(TENSORS, WANTED)


class Together(Rounding):
    """Rounding in which rows of every second tensor depend on each other."""

    def needs_all_rows(self, tensor: Tensor) -> bool:
        return TENSORS.index(tensor) % 2 == 1


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_tensor_is_made_once_and_given_in_order(threads: int) -> None:
    made: list[tuple[Tensor, int]] = []
    guard = threading.Lock()

    def make(tensor: Tensor, wanted: QuantType, rounding: Rounding) -> Iterator[np.ndarray]:
        assert wanted is WANTED
        with guard:
            made.append((tensor, rounding.threads))
        yield np.full((1, 1), TENSORS.index(tensor), np.uint8)

    with rounded_ahead(TYPES, Together(threads=threads), make) as blocks:
        found = [int(part[0, 0]) for tensor in TENSORS for part in blocks(tensor, WANTED)]
    assert found == list(range(12))
    assert sorted(TENSORS.index(tensor) for tensor, _ in made) == found
    share = {threads // min(threads, 4)} if threads > 1 else {1}
    assert {used for tensor, used in made if TENSORS.index(tensor) % 6 in (1, 5)} == share


def test_not_more_are_in_memory_than_threads() -> None:
    begun = threading.Semaphore(0)

    def make(tensor: Tensor, _wanted: QuantType, _rounding: Rounding) -> Iterator[np.ndarray]:
        begun.release()
        yield np.zeros((1, 1), np.uint8)

    with rounded_ahead(dict.fromkeys(TENSORS[1::2], WANTED), Together(threads=2), make) as blocks:
        list(blocks(TENSORS[1], WANTED))
        for _ in range(3):  # the first, and two that are ahead of the second
            assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.2)


def test_an_error_comes_with_its_tensor_and_ends_what_is_ahead() -> None:
    def make(tensor: Tensor, _wanted: QuantType, _rounding: Rounding) -> Iterator[np.ndarray]:
        if tensor is TENSORS[5]:
            raise ValueError(tensor.name)
        yield np.zeros((1, 1), np.uint8)

    seen: list[Tensor] = []

    def write() -> None:
        with rounded_ahead(TYPES, Together(threads=2), make) as blocks:
            for tensor in TENSORS:
                seen.extend(tensor for _ in blocks(tensor, WANTED))

    with pytest.raises(ValueError, match=r"blk\.5\.ffn_up"):
        write()
    assert seen == TENSORS[:5]


def test_a_share_keeps_everything_else() -> None:
    shares: list[Rounding] = []

    def make(tensor: Tensor, _wanted: QuantType, rounding: Rounding) -> Iterator[np.ndarray]:
        shares.append(rounding)
        yield np.zeros((1, 1), np.uint8)

    rounding = Together(threads=6, effort="best")
    with rounded_ahead(TYPES, rounding, make) as blocks:
        list(blocks(TENSORS[1], WANTED))
    assert {(each.threads, each.effort, type(each)) for each in shares} == {(1, "best", Together)}
