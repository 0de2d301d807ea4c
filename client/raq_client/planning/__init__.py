"""From a request to a solved problem: budgets, constraints, memory targets, several domains."""
