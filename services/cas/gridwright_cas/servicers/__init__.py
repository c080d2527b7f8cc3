"""The RPC services of the CAS, one file each."""
