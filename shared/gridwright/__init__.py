"""What every Gridwright service shares: digests, errors, the wire, and how a process is run."""
