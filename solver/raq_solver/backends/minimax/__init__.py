"""The min-max knapsack: one loss per domain, one choice for all, the largest loss as small as possible."""
