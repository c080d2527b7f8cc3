"""The only door between messages and meaning: what goes over the wire, and what carries it."""
