"""The authorities and keys that the servers of a cluster share, also kept in its store."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

from . import control_plane
from .certificates import authority_hash
from .etcd import Etcd
from .paths import Layout, write
from .processes import FatalError, environment, log, output
from .tokens import Token


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


def pack(tls: Path) -> dict[str, str]:
    """The shared files by their names."""
    return {name: (tls / name).read_text(encoding="ascii") for name in control_plane.SHARED}


def unpack(files: dict[str, str], tls: Path) -> None:
    """Put the shared files of another server in place."""
    for name in control_plane.SHARED:
        mode = 0o600 if name.endswith(".key") else 0o644
        write(tls / name, files[name], mode)


def _key(password: str) -> str:
    return f"/bootstrap/{hashlib.sha256(password.encode()).hexdigest()[:12]}"


def store(etcd: Etcd, layout: Layout, password: str) -> None:
    """Keep the shared files in the store, encrypted with the token: a restore needs them."""
    files = json.dumps(pack(layout.tls))
    key = _key(password)
    output(*etcd.ctl_command("put", key), stdin=_crypt(files, password, "-e"))


def keep(etcd: Etcd, layout: Layout, password: str) -> None:
    """Store the shared files unless the store has them.

    :raises FatalError: when they were encrypted with another token.
    """
    found = etcd.ctl("get", "/bootstrap/", "--prefix", "--keys-only").get("kvs", [])
    keys = [base64.b64decode(each["key"]).decode() for each in found]
    if not keys:
        store(etcd, layout, password)
    elif _key(password) not in keys:
        raise FatalError("bootstrap data already found and encrypted with different token")


def replace(etcd: Etcd, layout: Layout, old: str, new: str) -> None:
    """Encrypt what the store has with another token."""
    store(etcd, layout, new)
    output(*etcd.ctl_command("del", _key(old)))


def load(etcd: Etcd, password: str) -> dict[str, str]:
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
