"""The RPC services of the action cache."""
