"""Rounding with error feedback in NumPy: the witness of `raq_native.quantize_with_feedback`."""
