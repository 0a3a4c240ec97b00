"""Any inventory for pyinfra: the one that MUSTER_INVENTORY names, limited by MUSTER_LIMIT."""

import os
from pathlib import Path

from muster.inventory import pyinfra_inventory
from muster.paths import COLLECTION_ROOT

_path = os.environ.get("MUSTER_INVENTORY") or COLLECTION_ROOT / "inventories" / "emulated"
globals().update(pyinfra_inventory(Path(_path), os.environ.get("MUSTER_LIMIT") or None))
