"""Bringing new devices into an inventory: host keys, the operator's key, Python, hardware."""
