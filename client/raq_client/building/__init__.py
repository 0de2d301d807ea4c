"""Builds: from a recipe to a model file, its check and its manifest; every stage is kept by content and reused."""
