"""Allocations by name: llama.cpp's mixtures, overrides, recipes, moves from a base, architecture rules."""
