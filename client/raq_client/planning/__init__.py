"""From what was asked for to a solved problem: budgets, demands, promises of memory, several domains."""
