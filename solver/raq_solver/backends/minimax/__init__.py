"""The knapsack whose loss is the largest of several: one loss per domain, one allocation for all."""
