"""Gives the whole grid one address, by way of Envoy."""
