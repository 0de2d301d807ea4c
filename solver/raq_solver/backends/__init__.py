"""Solvers of knapsacks: arrays in, arrays out. Nothing here knows names."""
