"""Keeps blobs under the digest of their bytes."""
