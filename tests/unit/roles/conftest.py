"""Roles are found beside the package ``muster``, wherever pytest was started."""

import sys

from muster.paths import COLLECTION_ROOT

sys.path.insert(0, str(COLLECTION_ROOT))
