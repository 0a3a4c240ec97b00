"""Put a release on devices: stage, switch, health gate, confirm. One that fails goes back.

pyinfra INVENTORY deploys/model.py --data release=FILE [--data strategy=FILE] [--limit BATCH]
"""

from __future__ import annotations

from pyinfra import host

from roles.model.deploy import asked, model
from roles.model.options import read_orders
from roles.model.variables import Variables
from roles.running import begin

begin(["model"])

model(Variables.of(host), asked(read_orders))
