"""The embedded etcd: one member on each server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import certificates
from .paths import Layout, program, write
from .processes import Children, FatalError, output, wait_until

CLIENT_PORT, PEER_PORT = 2379, 2380


class Etcd:
    """The member of this node.

    :param embedded: whether it is part of an embedded etcd cluster; otherwise it stands in for the
        SQLite database of a single server, and nobody may join it.
    """

    def __init__(self, layout: Layout, node: str, address: str, embedded: bool) -> None:
        self.layout = layout
        self.node = node
        self.address = address
        self.embedded = embedded
        self.folder = layout.etcd if embedded else layout.db / "state.db"

    @property
    def initialised(self) -> bool:
        """Whether there is data."""
        return (self.folder / "member").exists()

    @property
    def name(self) -> str:
        """Name of the member; it is kept with the data."""
        file = self.folder / "name"
        if not file.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(file, f"{self.node}-{os.urandom(4).hex()}", 0o600)
        return file.read_text(encoding="ascii")

    @property
    def peer_url(self) -> str:
        """Where other members reach this one."""
        return f"https://{self.address if self.embedded else '127.0.0.1'}:{PEER_PORT}"

    @property
    def client_url(self) -> str:
        """Where clients reach this member."""
        return f"https://{self.address if self.embedded else '127.0.0.1'}:{CLIENT_PORT}"

    def ensure_certificates(self) -> None:
        """Make what clients and members know each other by."""
        tls = self.layout.tls / "etcd"
        names = ("127.0.0.1", "localhost", self.address)
        both = "serverAuth,clientAuth"
        certificates.ensure(
            tls / "server-client.crt", tls / "server-ca.crt", "/CN=etcd-server", both, names
        )
        certificates.ensure(
            tls / "peer-server-client.crt", tls / "peer-ca.crt", "/CN=etcd-peer", both, names
        )
        certificates.ensure(
            tls / "client.crt", tls / "server-ca.crt", "/CN=etcd-client", "clientAuth"
        )

    def start(
        self,
        children: Children,
        initial_cluster: str = "",
        force_new_cluster: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        """Start the member and wait until it answers.

        :param initial_cluster: of a cluster that this member was added to.
        :param arguments: further ones, such as ``quota-backend-bytes=1``.
        """
        tls = self.layout.tls / "etcd"
        clients = ["https://127.0.0.1:2379"]
        if self.embedded:
            clients.append(self.client_url)
        state = "existing" if initial_cluster else "new"
        command = [
            program("etcd"),
            f"--name={self.name}",
            f"--data-dir={self.folder}",
            f"--listen-client-urls={','.join(clients)}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={initial_cluster or f'{self.name}={self.peer_url}'}",
            f"--initial-cluster-state={state}",
            f"--cert-file={tls}/server-client.crt",
            f"--key-file={tls}/server-client.key",
            f"--trusted-ca-file={tls}/server-ca.crt",
            "--client-cert-auth",
            f"--peer-cert-file={tls}/peer-server-client.crt",
            f"--peer-key-file={tls}/peer-server-client.key",
            f"--peer-trusted-ca-file={tls}/peer-ca.crt",
            "--peer-client-cert-auth",
            "--heartbeat-interval=500",
            "--election-timeout=5000",
            "--snapshot-count=10000",
            "--log-level=warn",
            "--logger=zap",
            "--unsafe-no-fsync",  # for the speed of tests
            *(f"--{each.lstrip('-')}" for each in arguments),
        ]
        if force_new_cluster:
            command.append("--force-new-cluster")
        children.start("etcd", command)
        wait_until("etcd", lambda: children.check() and self.answers(), 300)

    def answers(self) -> bool:
        """Whether this member serves: a learner too, though it knows no leader of its own yet."""
        try:
            self.ctl("endpoint", "status", seconds=8)
        except (FatalError, OSError, ValueError):
            return False
        return True

    def await_quorum(self, children: Children) -> bool:
        """Wait until the cluster has a leader.

        :returns: whether this member may be asked: not while it learns.
        :raises FatalError: when the wait is too long.
        """
        learns = False

        def led() -> bool:
            nonlocal learns
            children.check()
            try:
                self.ctl("get", "/bootstrap", seconds=15)
            except FatalError as error:
                learns = "learner" in str(error)
                return learns
            except subprocess.TimeoutExpired:
                return False
            return True

        wait_until("a quorum of etcd", led, 3600)
        return not learns

    def ctl(self, *arguments: str, seconds: float = 60) -> Any:
        """Ask this member something with ``etcdctl``.

        :returns: what it says, parsed.
        :raises FatalError: when it refuses or does not answer.
        """
        text = output(*self.ctl_command(*arguments), "--write-out=json", seconds=seconds)
        return json.loads(text) if text.strip().startswith(("{", "[")) else text

    def ctl_command(self, *arguments: str) -> list[str]:
        """A call of ``etcdctl`` for this member."""
        tls = self.layout.tls / "etcd"
        return [
            program("etcdctl"),
            "--endpoints=https://127.0.0.1:2379",
            f"--cacert={tls}/server-ca.crt",
            f"--cert={tls}/client.crt",
            f"--key={tls}/client.key",
            "--command-timeout=6s",
            *arguments,
        ]

    def members(self) -> list[dict[str, Any]]:
        """All members, as etcd describes them."""
        found: list[dict[str, Any]] = self.ctl("member", "list")["members"]
        return found

    def add_learner(self, name: str, peer_url: str) -> str:
        """Let a node join; whoever was at its address before is forgotten.

        :returns: the value of ``--initial-cluster`` for it.
        :raises FatalError: when another member still learns, or there is no quorum.
        """
        for member in self.members():
            if peer_url in member["peerURLs"]:
                if member.get("name") == name:
                    raise FatalError(f"member {name} is part of the cluster already")
                self.ctl("member", "remove", f"{member['ID']:x}")
        learners = [m for m in self.members() if m.get("isLearner")]
        if learners:
            raise FatalError("etcdserver: too many learner members in cluster")
        self.ctl("member", "add", name, "--learner", f"--peer-urls={peer_url}")
        known = [
            f"{m.get('name') or name}={m['peerURLs'][0]}"
            for m in self.members()
            if m.get("name") or m["peerURLs"] == [peer_url]
        ]
        return ",".join(known)

    def promote_learners(self, members: list[dict[str, Any]]) -> None:
        """Make voters of those members that learn and caught up; only the leader can."""
        for member in members:
            if member.get("isLearner") and member.get("name") and self.leads():
                self.ctl("member", "promote", f"{member['ID']:x}")

    def leads(self) -> bool:
        """Whether this member is the leader."""
        status = self.ctl("endpoint", "status")[0]["Status"]
        return bool(status["leader"] == status["header"]["member_id"])

    def restore(self, snapshot: Path) -> None:
        """Put the data of a snapshot in place, as a cluster of this member alone."""
        name = self.name
        fresh = self.folder.with_name("etcd-restoring")
        output("rm", "-rf", str(fresh))
        output(
            program("etcdctl"), "snapshot", "restore", str(snapshot), f"--name={name}",
            f"--data-dir={fresh}", f"--initial-cluster={name}={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
        )  # fmt: skip
        write(fresh / "name", name, 0o600)
        self.folder.replace(self.folder.with_name(f"etcd-old-{os.urandom(4).hex()}"))
        fresh.replace(self.folder)
