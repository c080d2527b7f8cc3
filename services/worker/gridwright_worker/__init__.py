"""Runs actions and uploads what they produce."""
