"""Contracts and fakes, shipped so that every service tests against the same ones."""
