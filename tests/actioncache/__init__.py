"""Tests of gridwright_actioncache."""
