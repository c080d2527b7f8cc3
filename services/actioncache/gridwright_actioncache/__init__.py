"""Remembers the result of every action."""
