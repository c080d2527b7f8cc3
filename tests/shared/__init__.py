"""Tests of gridwright, the library that all services share."""
