"""Tests of gridwright_cas."""
