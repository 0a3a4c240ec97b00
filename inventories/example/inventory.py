"""The example for plain pyinfra: ``pyinfra inventories/example/inventory.py DEPLOY``."""

from pathlib import Path

from muster.inventory import pyinfra_inventory

globals().update(pyinfra_inventory(Path(__file__).parent))
