"""Observe the operations of a running model: libllama's scheduler calls back before and after each one."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.engine.library import Library
from raq_client.engine.tensors import F32, TensorStruct, clean_name, copy_values, find_operations

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class Watcher:
    """A callback for libllama's scheduler: `visit` is called with each computed operation that `wants` accepts.

    An exception can't pass through libllama: it is kept, further operations are skipped, `reraise` raises it later.
    """

    def __init__(self, wants: Callable[[TensorStruct], bool], visit: Callable[[TensorStruct], None]) -> None:
        self._wants, self._visit = wants, visit
        self._error: BaseException | None = None
        self.callback = EvalCallback(self._called)

    def reraise(self) -> None:
        """Raise the exception that `wants` or `visit` raised, if any."""
        if self._error is not None:
            raise self._error

    def _called(self, address: int, ask: bool, _: int | None) -> bool:  # noqa: FBT001 - libllama's signature
        if self._error is None:
            try:
                tensor = TensorStruct.from_address(address)
                if ask:
                    return self._wants(tensor)
                self._visit(tensor)
            except BaseException as error:  # noqa: BLE001 - raised again by reraise
                self._error = error
        return not ask


@dataclass(frozen=True, eq=False)
class Product:
    """One multiplication of a weight matrix, or of a stack of matrices, with its inputs.

    `stack` is the number of matrices along the two outer axes of the weight. `inputs` of a plain product has the axes
    (outer, inner, token, column) and belong to matrix (outer mod stack[0], inner mod stack[1]). With `experts` (the
    experts chosen by each token) the axes are (1, token, choice, column); the choice axis has length 1 where all
    chosen experts share one input.
    """

    name: str
    stack: tuple[int, int]
    inputs: Float32[np.ndarray, "outer inner rows columns"]
    experts: Int32[np.ndarray, "tokens choices"] | None


def watch_products(
    library: Library, wanted: Callable[[str], bool], least_tokens: int, visit: Callable[[Product], None]
) -> Watcher:
    """A watcher of all products with float32 inputs whose weight has a `wanted` name.

    Plain products of fewer than `least_tokens` inputs are skipped; products of experts never are.
    """
    operations = find_operations(library)

    def wants(tensor: TensorStruct) -> bool:
        if tensor.op not in {operations.multiply, operations.multiply_experts}:
            return False
        inputs = TensorStruct.from_address(tensor.src[1])
        enough = tensor.op == operations.multiply_experts or inputs.ne[1] >= least_tokens
        return inputs.type == F32 and enough and wanted(source_name(tensor))

    def take(tensor: TensorStruct) -> None:
        weight = TensorStruct.from_address(tensor.src[0])
        inputs = copy_values(library, tensor.src[1], np.dtype(np.float32))
        experts = None
        if tensor.op == operations.multiply_experts:
            experts = copy_values(library, tensor.src[2], np.dtype(np.int32))[0, 0]
        visit(Product(clean_name(weight.name), (weight.ne[3], weight.ne[2]), inputs, experts))

    return Watcher(wants, take)


def source_name(tensor: TensorStruct) -> str:
    """The name of an operation's first source, which is the weight if it has one."""
    return clean_name(TensorStruct.from_address(tensor.src[0]).name)
