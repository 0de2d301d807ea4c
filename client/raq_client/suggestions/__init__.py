"""Suggestions: which blocks, tensors or experts to raise, what that costs and buys, and budgets worth a name."""
