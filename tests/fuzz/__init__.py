"""Requests that no client sends on purpose, made up by hypothesis, at a CAS that is a process of its own."""
