"""Sensitivity: how much a model's output changes with the error of each tensor; measured, estimated or imported."""
