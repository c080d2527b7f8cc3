"""Tests of the segment engine, and the disks that fail under it."""
