"""Solvers of knapsacks: arrays in, arrays out, without names."""
