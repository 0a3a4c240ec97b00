"""A stand-in for K3s, for tests."""
