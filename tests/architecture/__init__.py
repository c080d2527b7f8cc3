"""What may import what, and other rules of the tree."""
