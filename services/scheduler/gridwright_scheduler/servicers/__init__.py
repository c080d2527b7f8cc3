"""The RPC services of the scheduler, one file each."""
