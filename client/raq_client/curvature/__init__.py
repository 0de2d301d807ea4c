"""How much a model's output moves with each of its weights: the Fisher information, from one pass back through it.

`shapes` reads what a model's layers are, `layers` computes them, `network` puts them together, `fisher` passes back
through them and keeps a row and a column of numbers for each matrix.
"""
