"""Questions other than `solve`: frontiers, smallest sizes, explanations, audits, ladders, worst cases."""
