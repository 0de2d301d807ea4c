"""Deciding again by what was measured: the gate, refining, ladders."""
