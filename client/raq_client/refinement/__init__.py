"""Use measurements of allocations: compare candidates, find the size for a limit, measure ladders."""
