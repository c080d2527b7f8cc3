"""The command line of the grid: starts it, asks it, uses it."""
