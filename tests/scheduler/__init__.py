"""Tests of gridwright_scheduler."""
