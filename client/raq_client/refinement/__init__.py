"""Use measurements of allocations: compare candidates, refine the loss table, measure ladders."""
