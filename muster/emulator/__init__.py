"""Docker-emulated devices, their sites' registry and package mirror, and faults."""

from muster.emulator.fleet import FAULTS, EmulatedFleet

__all__ = ["FAULTS", "EmulatedFleet"]
