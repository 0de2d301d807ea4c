"""What else a problem answers: frontiers, smallest sizes, explanations, audits, ladders, worst cases."""
