"""Tensors rounded ahead of the writer: several at once, where one alone does not keep all cores busy.

With feedback between rows a matrix is rounded group of rows after group, and its threads wait for each other. What is
written does not depend on it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import UInt8

from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

MOST_AT_ONCE: Final = 4
"""Tensors in memory at once, beside what is written."""

Blocks = UInt8[np.ndarray, "rows size"]
Make = Callable[[Tensor, QuantType, Rounding], Iterator[Blocks]]


@contextmanager
def rounded_ahead(
    types: dict[Tensor, QuantType], rounding: Rounding, make: Make
) -> Iterator[Callable[[Tensor, QuantType], Iterator[Blocks]]]:
    """A function for the blocks of each tensor, to be called in the order of `types`.

    Tensors whose rows depend on each other are made by threads that share those of `rounding`; what they raise, the
    function raises.
    """
    threads = rounding.threads or os.cpu_count() or 1
    at_once = min(threads, MOST_AT_ONCE)
    waiting = deque(
        (tensor, wanted)
        for tensor, wanted in types.items()
        if wanted != tensor.source_type and rounding.needs_all_rows(tensor)
    )
    if at_once == 1 or len(waiting) < at_once:
        yield lambda tensor, wanted: make(tensor, wanted, rounding)
        return
    share = replace(rounding, threads=threads // at_once)
    begun: dict[Tensor, Future[list[Blocks]]] = {}
    with ThreadPoolExecutor(at_once) as pool:

        def begin() -> None:
            while waiting and len(begun) < at_once:
                tensor, wanted = waiting.popleft()
                begun[tensor] = pool.submit(lambda *asked: list(make(*asked)), tensor, wanted, share)

        def blocks(tensor: Tensor, wanted: QuantType) -> Iterator[Blocks]:
            begin()
            if tensor not in begun:
                return make(tensor, wanted, rounding)
            made = begun.pop(tensor).result()
            begin()
            return iter(made)

        try:
            yield blocks
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
