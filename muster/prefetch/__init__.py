"""Filling the registries of sites ahead of rollouts, and clearing them."""
