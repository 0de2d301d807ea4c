"""Fisher information: how much a model's output changes with each of its weights, from one backward pass.

`shapes` reads the layers of a model from its metadata, `layers` computes them, `network` connects them, `fisher` runs
the backward pass and keeps row and column sums for each matrix.
"""
