"""Bring devices up: base system, container engine, device program.

pyinfra inventories/emulated/inventory.py deploys/site.py
"""

from __future__ import annotations

from pyinfra import host

from muster.provisioning import SITE_ROLES
from roles.base.deploy import base
from roles.base.variables import Variables as BaseVariables
from roles.docker.deploy import docker
from roles.docker.variables import Variables as DockerVariables
from roles.muster_device.deploy import muster_device
from roles.muster_device.variables import Variables as DeviceVariables
from roles.running import begin

begin(SITE_ROLES)

base(BaseVariables.of(host))
docker(DockerVariables.of(host))
muster_device(DeviceVariables.of(host))
