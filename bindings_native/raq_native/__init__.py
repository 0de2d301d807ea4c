"""Block formats of GGUF on arrays: quantize, dequantize, and what that does to the weights.

Everything is native code (bindings_native/src); this package imports no other package of raq. Arrays are never
converted: weights are C-ordered float32[rows, row length], importance is float32[row length], blocks are
uint8[rows, row bytes].
"""

from raq_native._raq_native import QUANT_TYPES as QUANT_TYPES
from raq_native._raq_native import CudaDevice as CudaDevice
from raq_native._raq_native import ErrorSums as ErrorSums
from raq_native._raq_native import QuantType as QuantType
from raq_native._raq_native import cuda_built as cuda_built
from raq_native._raq_native import cuda_devices as cuda_devices
from raq_native._raq_native import cuda_release as cuda_release
from raq_native._raq_native import dequantize as dequantize
from raq_native._raq_native import feedback_factor as feedback_factor
from raq_native._raq_native import instruction_sets as instruction_sets
from raq_native._raq_native import measure_error as measure_error
from raq_native._raq_native import measure_errors as measure_errors
from raq_native._raq_native import measure_rows as measure_rows
from raq_native._raq_native import quantize as quantize
from raq_native._raq_native import quantize_with_feedback as quantize_with_feedback
from raq_native._raq_native import refine_codes as refine_codes

__all__ = [
    "QUANT_TYPES",
    "CudaDevice",
    "ErrorSums",
    "QuantType",
    "cuda_built",
    "cuda_devices",
    "cuda_release",
    "dequantize",
    "feedback_factor",
    "instruction_sets",
    "measure_error",
    "measure_errors",
    "measure_rows",
    "quantize",
    "quantize_with_feedback",
    "refine_codes",
]
