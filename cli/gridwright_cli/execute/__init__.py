"""`gridwright execute`: one command, run by the grid."""
