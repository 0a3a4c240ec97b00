"""``k3s server --cluster-reset``, with or without a snapshot."""

from __future__ import annotations

from pathlib import Path

from . import bootstrap, node, tokens
from .config import Settings
from .control_plane import ensure_shared
from .etcd import Etcd
from .paths import Layout, write
from .processes import Children, FatalError, log


def _flag(layout: Layout) -> Path:
    return layout.db / "reset-flag"


def forget_flag(layout: Layout) -> None:
    """An ordinary start: another reset may follow."""
    _flag(layout).unlink(missing_ok=True)


def run(settings: Settings) -> None:
    """Make this server the only member of its cluster, with a snapshot's data if one is given.

    :raises FatalError: when that can't be done; nothing was changed then.
    """
    layout = settings.layout
    flag = _flag(layout)
    if flag.exists():
        raise FatalError(
            "Managed etcd cluster membership was reset, please remove the cluster-reset flag and "
            "start k3s normally. If you need to perform another cluster reset, you must first "
            f"manually delete the file at {flag}"
        )
    if settings.text("server"):
        raise FatalError(
            "cannot perform cluster-reset while server URL is set - remove server from "
            "configuration before resetting"
        )
    etcd = Etcd(layout, node.name(settings), node.address(settings), embedded=True)
    given = settings.text("cluster-reset-restore-path")
    snapshot = Path(given) if given else None
    if snapshot is not None and not snapshot.is_file():
        raise FatalError(f"etcd: snapshot path does not exist: {snapshot}")
    if snapshot is None and not etcd.initialised:
        raise FatalError("no etcd data found: cluster-reset needs a member of an embedded etcd")
    # on a new host there are no authorities: these serve until those of the cluster are known
    ensure_shared(layout.tls)
    etcd.ensure_certificates()
    if snapshot is not None:
        etcd.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        etcd.restore(snapshot)
    children = Children()
    try:
        etcd.start(children, force_new_cluster=True)
        if snapshot is not None:
            token = tokens.of_cluster(settings)
            bootstrap.unpack(bootstrap.load(etcd, token.password), layout)
            write(layout.server / "token", token.full(_authority(layout)) + "\n", 0o600)
    finally:
        children.stop()
    write(flag, "")
    log(
        "info",
        "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. "
        f"Backup and delete {layout.db} on each peer etcd server and rejoin the nodes",
    )


def _authority(layout: Layout) -> str:
    return (layout.tls / "server-ca.crt").read_text(encoding="ascii")
