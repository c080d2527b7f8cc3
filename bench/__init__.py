"""Load generators and side-by-side runs, the ground under every number that we state."""
