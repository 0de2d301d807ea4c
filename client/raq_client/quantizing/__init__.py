"""The native kernels at work on model files: errors measured, files written."""
