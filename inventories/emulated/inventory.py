"""The emulated fleet for plain pyinfra: ``pyinfra inventories/emulated/inventory.py DEPLOY``."""

from pathlib import Path

from muster.inventory import pyinfra_inventory

globals().update(pyinfra_inventory(Path(__file__).parent))
