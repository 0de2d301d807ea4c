"""Evaluate models on text: perplexity, KL divergence, paired comparisons, allocations tried in memory."""
