"""Where blobs are kept: leaves that hold bytes, decorators that change one thing about another store."""
