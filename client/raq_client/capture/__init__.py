"""Importance from live traffic: an observing proxy before a server, and a worker that counts what passed."""
