"""Decides which worker runs which action, and when."""
