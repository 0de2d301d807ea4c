"""Profiles and proven answers in a database."""
