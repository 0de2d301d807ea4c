"""The model run on text: perplexity, KL divergence, importance, comparisons, allocations tried in memory."""
