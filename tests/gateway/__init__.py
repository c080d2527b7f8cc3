"""Tests of gridwright_gateway."""
