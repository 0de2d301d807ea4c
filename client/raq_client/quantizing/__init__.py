"""Quantize model files with the native kernels: measure errors, write files."""
