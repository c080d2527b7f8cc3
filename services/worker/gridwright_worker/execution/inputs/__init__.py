"""From the digest of an input root to a directory on disk."""
