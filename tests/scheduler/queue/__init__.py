"""Tests of gridwright_scheduler.queue."""
