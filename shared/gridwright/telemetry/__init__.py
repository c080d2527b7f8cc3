"""Logs, metrics, health, and the admin pages of a service."""
