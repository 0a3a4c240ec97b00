"""Muster brings up sites of edge-AI devices and rolls models over them in gated batches."""

__version__ = "0.1.0"
