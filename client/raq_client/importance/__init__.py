"""Importance files: read, written, summed over domains, compared."""
