"""A stand-in for K3s, for tests alone: its contract, over programs of Kubernetes itself."""
