"""Importance files: collect, read, write, merge over domains, compare."""
