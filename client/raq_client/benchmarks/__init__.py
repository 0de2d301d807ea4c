"""Benchmarks: where their rows come from, pinned by a lock; as calibration text, and as a test of two models."""
