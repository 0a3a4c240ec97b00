"""The authorities and keys that the servers of a cluster share, also kept in its store."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from . import control_plane
from .certificates import authority_hash
from .config import Settings
from .etcd import Etcd
from .paths import Layout, program, write
from .processes import FatalError, environment, log, output
from .tokens import Token

_ENCRYPTION = "encryption-config.json"


class ExternalStore:
    """An etcd that is not the cluster's own, to keep the shared files in."""

    def __init__(self, settings: Settings) -> None:
        options = {"cafile": "cacert", "certfile": "cert", "keyfile": "key"}
        self._options = [f"--endpoints={settings.text('datastore-endpoint')}"]
        for name, option in options.items():
            if file := settings.text(f"datastore-{name}"):
                self._options.append(f"--{option}={file}")

    def ctl(self, *arguments: str) -> Any:
        """Ask it something with ``etcdctl``; see :meth:`.etcd.Etcd.ctl`."""
        return json.loads(output(*self.ctl_command(*arguments), "--write-out=json"))

    def ctl_command(self, *arguments: str) -> list[str]:
        """A call of ``etcdctl`` for it."""
        return [program("etcdctl"), *self._options, "--command-timeout=6s", *arguments]


Store = Etcd | ExternalStore


def ensure_authorities(tls: Path) -> None:
    """Make those of a new cluster, unless they are there."""
    control_plane.ensure_shared(tls)


def check_hash(token: Token, ca_pem: str) -> None:
    """Hold the authority against a secure token.

    :raises FatalError: when they differ.
    """
    found = authority_hash(ca_pem)
    if token.ca_hash and token.ca_hash != found:
        raise FatalError(
            "token CA hash does not match the Cluster CA certificate hash: "
            f"{token.ca_hash} != {found}"
        )


def pack(layout: Layout) -> dict[str, str]:
    """The shared files by their names."""
    files = {name: layout.tls / name for name in control_plane.SHARED}
    files[_ENCRYPTION] = layout.encryption
    return {name: path.read_text("ascii") for name, path in files.items() if path.exists()}


def unpack(files: dict[str, str], layout: Layout) -> None:
    """Put the shared files of another server in place."""
    for name in control_plane.SHARED:
        mode = 0o600 if name.endswith(".key") else 0o644
        write(layout.tls / name, files[name], mode)
    if _ENCRYPTION in files:
        write(layout.encryption, files[_ENCRYPTION], 0o600)


def _key(password: str) -> str:
    return f"/bootstrap/{hashlib.sha256(password.encode()).hexdigest()[:12]}"


def store(etcd: Store, layout: Layout, password: str) -> None:
    """Keep the shared files in the store, encrypted with the token: a restore needs them."""
    files = json.dumps(pack(layout))
    key = _key(password)
    output(*etcd.ctl_command("put", key), stdin=_crypt(files, password, "-e"))


def is_kept(etcd: Store, password: str) -> bool:
    """Whether the store has the shared files.

    :raises FatalError: when they were encrypted with another token.
    """
    found = etcd.ctl("get", "/bootstrap/", "--prefix", "--keys-only").get("kvs", [])
    keys = [base64.b64decode(each["key"]).decode() for each in found]
    if keys and _key(password) not in keys:
        raise FatalError("bootstrap data already found and encrypted with different token")
    return bool(keys)


def keep(etcd: Store, layout: Layout, password: str) -> None:
    """Store the shared files unless the store has them; raises as :func:`is_kept`."""
    if not is_kept(etcd, password):
        store(etcd, layout, password)


def replace(etcd: Etcd, layout: Layout, old: str, new: str) -> None:
    """Encrypt what the store has with another token."""
    store(etcd, layout, new)
    output(*etcd.ctl_command("del", _key(old)))


def load(etcd: Store, password: str) -> dict[str, str]:
    """The shared files out of the store.

    :raises FatalError: when they were encrypted with another token.
    """
    found = etcd.ctl("get", _key(password)).get("kvs")
    if not found:
        raise FatalError("bootstrap data already found and encrypted with different token")
    text = base64.b64decode(found[0]["value"]).decode()
    files: dict[str, str] = json.loads(_crypt(text, password, "-d"))
    return files


def _crypt(text: str, password: str, direction: str) -> str:
    command = ["openssl", "enc", direction, "-aes-256-cbc", "-pbkdf2", "-a", "-A"]
    done = subprocess.run(
        [*command, "-pass", "env:K3S_STAND_IN_PASSWORD"],
        input=text,
        capture_output=True,
        text=True,
        env=environment() | {"K3S_STAND_IN_PASSWORD": password},
    )
    if done.returncode:
        raise FatalError("bootstrap data can't be decrypted with this token")
    return done.stdout


def moves_from_sqlite(layout: Layout, etcd: Etcd) -> bool:
    """Take over the data of a single server when it becomes the first of a cluster."""
    single = layout.db / "state.db"
    if not etcd.embedded or etcd.initialised or not (single / "member").exists():
        return False
    log("info", "migrating content from sqlite to etcd")
    if etcd.folder.exists():
        output("rm", "-rf", str(etcd.folder))
    single.replace(etcd.folder)
    return True
