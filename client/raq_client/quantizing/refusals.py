"""Refusals of the kernels, told by the name of the tensor and the place of the weight."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensors import Tensor


@contextmanager
def refusals_named(tensor: Tensor, weights: Float32[np.ndarray, "rows length"], rows: Sequence[int]) -> Iterator[None]:
    """Turn a ValueError of the kernels for these rows into a fault with the tensor's name and the position."""
    try:
        yield
    except InvalidInput:  # of Gram statistics that can't be read: it names them
        raise
    except ValueError as error:
        bad = np.argwhere(~np.isfinite(weights))
        if not bad.size:
            raise InvalidInput(Fault(tensor.name, f"can't be quantized: {error}")) from error
        row, column = bad[0].tolist()
        what = f"weight {column} of row {rows[row]} is {weights[row, column]}; get the model file again, it is damaged"
        raise InvalidInput(Fault(tensor.name, what)) from error
