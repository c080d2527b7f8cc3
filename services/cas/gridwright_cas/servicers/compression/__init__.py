"""Compression on the wire: what clients send compressed, and what they are sent so (checklist CMP)."""
