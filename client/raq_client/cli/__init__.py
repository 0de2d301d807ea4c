"""The `raq-client` command: each module parses one group of commands and prints; the work is done elsewhere."""
