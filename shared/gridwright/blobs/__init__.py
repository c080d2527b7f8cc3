"""Blob stores: the interface, and the two implementations that more than one service needs."""
