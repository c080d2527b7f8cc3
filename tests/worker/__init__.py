"""Tests of gridwright_worker."""
