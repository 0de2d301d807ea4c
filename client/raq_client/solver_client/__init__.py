"""Solver clients: questions about problems answered by a server or in this process."""
