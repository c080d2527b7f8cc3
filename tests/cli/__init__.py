"""Tests of gridwright_cli."""
