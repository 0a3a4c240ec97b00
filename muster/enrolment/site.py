"""The inventory of a new site: a folder with comments that say what belongs where."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from muster.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

_HOSTS = """\
# The devices of the site {name}. Ansible's format and meaning apply. `muster enroll` writes devices
# into this file and leaves your comments where they are; look at it with
#
#   muster inventory -i {folder}
#
# Every device is in one site_* group and in one hw_* group. The site says where its devices find
# things (group_vars/site_{name}.yml), the hardware group has defaults in the collection's
# group_vars/. What this inventory says wins over those.
#
# A device by hand, where `muster enroll` can't reach it yet, goes below `hosts:` of both groups:
#        {name}-cam-01:
#          ansible_host: 10.0.0.10
---
all:
  children:
    site_{name}:
      hosts: {{}}

    # Kinds of hardware, filled by `muster enroll`: hw_jetson_orin, hw_raspberry_pi, hw_coral,
    # hw_hailo, hw_intel, hw_x86_gpu, hw_cpu. Groups of your own may stand beside them.
"""

_ALL = """\
# What holds for all devices of this inventory.
---
# The login that Muster uses. `muster enroll` installs a public key for it.
ansible_user: {user}
ansible_become: true
# A password for sudo belongs into a vault:
#   ansible-vault encrypt_string --stdin-name ansible_become_password
# Muster reads the vault's own password from the file that ANSIBLE_VAULT_PASSWORD_FILE names.
# The private key to log in with; without it, that of ssh-agent or ~/.ssh.
# ansible_ssh_private_key_file: ~/.ssh/id_ed25519

# Host keys are pinned by `muster enroll`. A device that shows another key is not touched.
ansible_ssh_common_args: >-
  -o UserKnownHostsFile={{{{ inventory_dir }}}}/known_hosts
  -o StrictHostKeyChecking=yes
# Through a jump host: add the line `-o ProxyJump=USER@HOST` above.
"""

_SITE = """\
# What holds for the devices of the site {name}.
---
# The registry that devices pull from, as they see it: HOST:PORT.{missing}
{comment}muster_registry: {registry}
# The CA that signed its certificate: a PEM file, here beside this inventory.
# docker_registry_cas:
#   {registry}: "{{{{ inventory_dir }}}}/registry-ca.pem"

# What runs the models: docker, podman or containerd.
# muster_device_runtime: docker
"""

_MISSING = "\n# `muster provision` needs it: set yours, and take the mark of the comment away."

_PYINFRA = '''\
"""The site {name} for plain pyinfra: ``pyinfra {folder}/inventory.py DEPLOY``."""

from pathlib import Path

from muster.inventory import pyinfra_inventory

globals().update(pyinfra_inventory(Path(__file__).parent))
'''


def check_site_name(text: str) -> str:
    """The name of a site without its prefix.

    :raises InputError: it can't be the name of a group.
    """
    name = text.removeprefix("site_")
    if not _NAME.fullmatch(name):
        hint = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        better = f", such as {hint}" if _NAME.fullmatch(hint) else ""
        raise InputError(
            f"{text}: expected a name of small letters, digits and _, beginning with a"
            f" letter{better}"
        )
    return name


def render_site(name: str, folder: Path, user: str, registry: str | None) -> dict[str, str]:
    """The files of a site's inventory by their paths below its folder.

    :param name: without prefix.
    :param registry: ``host:port`` as the site's devices see it; None leaves a line to fill in.
    """
    words = {
        "name": name,
        "folder": folder,
        "user": user,
        "registry": registry or f"registry.{name.replace('_', '-')}.example:5000",
        "comment": "" if registry else "# ",
        "missing": "" if registry else _MISSING,
    }
    return {
        "hosts.yml": _HOSTS.format(**words),
        "group_vars/all.yml": _ALL.format(**words),
        f"group_vars/site_{name}.yml": _SITE.format(**words),
        "inventory.py": _PYINFRA.format(**words),
        "known_hosts": "# Host keys of the devices, pinned by `muster enroll`.\n",
    }


def write_site(name: str, folder: Path, user: str, registry: str | None) -> list[Path]:
    """Write the inventory of a new site: the whole folder or nothing. See :func:`render_site`.

    :raises InputError: there is something already, or it can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already, and is left as it is")
    if re.search(r"\s", str(folder.absolute())):
        raise InputError(f"{folder}: expected a path without spaces, ssh can't name a file there")
    files = render_site(name, folder, user, registry)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            for path, text in files.items():
                (work / path).parent.mkdir(exist_ok=True)
                (work / path).write_text(text, encoding="utf-8")
            work.chmod(0o755)
            work.replace(folder)  # onto an empty folder, or none
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"{folder}: can't be written, {error.strerror}") from None
    return [folder / path for path in files]
