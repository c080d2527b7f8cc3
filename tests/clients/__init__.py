"""Builds with real build tools."""
