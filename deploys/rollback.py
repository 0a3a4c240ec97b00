"""Take devices back to a release that they ran before.

pyinfra INVENTORY deploys/rollback.py --data model=NAME [--data to=RELEASE_ID] [--limit BATCH]
"""

from __future__ import annotations

from roles.model.deploy import asked, rollback
from roles.model.options import read_rollback
from roles.running import begin

begin(["model"])

rollback(asked(read_rollback))
