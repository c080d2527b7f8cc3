"""Whole grids, all services as processes, behind a real Envoy."""
