"""
Quantizes, dequantizes and measures arrays in the block formats of GGUF.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class QuantType:
    """A ggml block format."""

    @property
    def name(self) -> str:
        """ggml's name in capitals: Q4_K."""

    @property
    def ggml_id(self) -> int: ...

    @property
    def weights_per_block(self) -> int: ...

    @property
    def bytes_per_block(self) -> int: ...

    def __repr__(self) -> str: ...

class CudaDevice:
    """A CUDA device of this machine."""

    @property
    def number(self) -> int:
        """N of device='cuda:N'."""

    @property
    def name(self) -> str: ...

    @property
    def compute_capability(self) -> tuple[int, int]:
        """(9, 0) for 9.0."""

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""

    @property
    def usable(self) -> bool:
        """Whether the kernels run on it: compute capability 7.5 or more."""

    def __repr__(self) -> str: ...

class ErrorSums:
    """
    Sums over the weights w of a tensor, with r the restored weight and h the importance of its column.

    h is 1 where no importance was given.
    """

    @property
    def weighted_squared_error(self) -> float:
        """Sum of h (w - r)^2."""

    @property
    def weighted_energy(self) -> float:
        """Sum of h w^2."""

QUANT_TYPES: tuple[QuantType, ...]
"""Every quant type there are kernels for, in the order of ggml's ids."""

cuda_built: bool
"""Whether this build has CUDA kernels; `cuda_devices` lists the devices that they can run on."""

def quantize(quant_type: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, *, threads: int = 0, effort: str = 'fast', device: str = 'cpu', instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C')]:
    """
    Quantize the weights: the blocks of each row, uint8[rows, row bytes].

    Importance is per column, not negative, in any unit; without it all columns count alike. The search
    minimizes the sum of h (w - r)^2, with h the importance and r the restored weight. `threads` 0 means
    one per processor; `effort` is 'fast' or 'best' (wider search, same format); `device` is 'cpu', 'cuda'
    (all usable devices share the rows) or 'cuda:N'. Neither threads nor device nor `instruction_set`
    ('automatic', 'baseline', 'v3', 'v4') changes a byte.

    Raises ValueError for an unknown name, a row length that the block does not divide, importance of
    another length or with a negative or non-finite value, and a NaN or infinite weight (its position is
    named); RuntimeError if CUDA is asked for and absent, or fails; MemoryError if the device has no room
    for a quarter of a MiB of weights.
    """

def quantize_with_feedback(quant_type: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], factor: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_factor: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, *, threads: int = 0, effort: str = 'fast', device: str = 'cpu', instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C')]:
    """
    Quantize the weights so that later columns take back the errors of earlier ones: uint8[rows, row bytes].

    For inputs x with H the mean of x xᵀ and H⁻¹ = Uᵀ U, `factor` is U: float32[row length, row length],
    upper triangular with a positive diagonal. Columns are rounded from left to right. The error of column j,
    e = (w - r) / U_jj with w the weight as it has become and r the restored one, is subtracted as e U_jk from
    the weights of the columns k after it. Scales of a block are searched on its weights as they have become,
    with importance 1 / U_jj². Where inputs are correlated, the squared error of the outputs, tr(ΔW H ΔWᵀ), is
    far below that of `quantize`; blocks have the same format and size.

    With `row_factor`, float32[rows, rows], the factor of the mean of g gᵀ over the gradients g at the outputs (in the
    order of the rows), errors are fed forward into later rows too, from each group of 16: tr(G ΔW H ΔWᵀ) is what becomes
    small.

    Codebook types choose the vector of 4 or 8 columns at once and then feed their errors forward. `threads`,
    `effort`, `device` and `instruction_set` are as in `quantize`: all but the effort change no byte. With `row_factor`
    all rows are rounded on one CUDA device, another one for the next call. Raises as `quantize` does, MemoryError if
    that device has no room for weights, errors and both factors; ValueError for F32, F16 and BF16, which store every
    weight by itself, and for a factor of another shape, with a NaN or infinite number, with one below the diagonal that
    is not zero, or with a diagonal that is not positive.
    """

def refine_codes(quant_type: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], gram: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_gram: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, *, sweeps: int = 2, threads: int = 0, instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C')]:
    """
    Choose the codes of blocks again so that tr(M E H Eᵀ) becomes lower: uint8[rows, row bytes].

    `blocks` are those of the weights in the type, and E is what they restore less the weights. `gram` is H, the mean of
    x xᵀ over the inputs x, float32[row length, row length]; `row_gram` is M, that of g gᵀ over the gradients g at the
    outputs, float32[rows, rows], or the identity. Both are read whole: they must be symmetric, and should have the damping
    of the factors. Scales stay; one after the other each code (of codebook types, each vector with its signs)
    becomes the best one for all others as they are, `sweeps` times over. The sum never rises but by float32 rounding.
    Neither threads nor the instruction set changes a byte. Raises ValueError as `quantize_with_feedback` does, for blocks
    of another shape, and for a diagonal that is not positive.
    """

def feedback_factor(gram: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], damping: float, *, threads: int = 0, instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C')]:
    """
    The factor of a Gram matrix for `quantize_with_feedback`: float32[columns, columns], upper triangular.

    With H = gram + damping * mean(diagonal of gram) * I (where that mean is 0, I is added instead), the factor
    U has H⁻¹ = Uᵀ U. Only the upper triangle of `gram` is read. Computed in float64, by products in one order:
    neither threads nor the instruction set changes a bit. Takes 2/3 columns³ operations and two float64
    matrices. Raises ValueError for a matrix that is not square, has a NaN or infinite number, or is not positive
    definite with this damping, for a damping that is negative or not finite, and for a factor beyond the range
    of float32.
    """

def dequantize(quant_type: str, blocks: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_length: int, *, threads: int = 0, device: str = 'cpu', instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C')]:
    """
    Restore the weights of each row, float32[rows, row_length].

    Any bytes give some floats. Raises ValueError if the bytes of a row are not those of row_length weights.
    """

def measure_error(quant_type: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, *, threads: int = 0, effort: str = 'fast', device: str = 'cpu', instruction_set: str = 'automatic') -> ErrorSums:
    """
    The errors of `quantize` followed by `dequantize`, keeping neither result.

    Raises as `quantize` does.
    """

def measure_errors(quant_types: Sequence[str], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, *, threads: int = 0, effort: str = 'fast', device: str = 'cpu', instruction_set: str = 'automatic') -> list[ErrorSums]:
    """`measure_error` for several quant types in one pass over the weights."""

def measure_rows(quant_types: Sequence[str], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, *, threads: int = 0, effort: str = 'fast', instruction_set: str = 'automatic') -> Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C')]:
    """
    The sums of h (w - r)^2 and of h w^2 of each row, float64[types, rows, 2], as `ErrorSums` has them.

    One pass over the weights, on the processor. Raises as `quantize` does.
    """

def instruction_sets() -> list[str]:
    """
    Names of the instruction sets that this build has and this processor runs, lowest first.
    """

def cuda_devices() -> list[CudaDevice]:
    """The CUDA devices; empty without a driver, a device or a CUDA build."""

def cuda_release() -> None:
    """
    Free the memory that calls with a CUDA device keep for the next call.

    It is some 200 MiB on each device, and as much pinned on the host.
    """
