"""Allocations by name: llama.cpp's mixtures, overrides, recipes, moves around a base, rules of architecture."""
