"""``muster-k3s reset``: nothing of K3s stays, and nothing of others goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from k3s_stand_ins import Node, program

Failure = program.Failure
MINE = "/var/lib/rancher/k3s/server/db/etcd/member"


@pytest.fixture
def killed(server: Node, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def kill(pid: int, _signal: int) -> None:
        found.append(pid)
        folder = server.at(f"/proc/{pid}")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(program, "RESET_PAUSE", 0.0)
    return found


def process(server: Node, pid: int, parent: int, line: str, group: str = "/user.slice") -> None:
    server.write(f"/proc/{pid}/stat", f"{pid} (a (b) c) S {parent} 1 1")
    server.write(f"/proc/{pid}/cmdline", line.replace(" ", "\0"))
    server.write(f"/proc/{pid}/cgroup", f"0::{group}\n")


def mounts(server: Node, *lines: str) -> None:
    """Each line: where it is, its kind, and if need be its device and the folder of that."""
    text = "1 0 8:1 / / rw - ext4 x rw\n"
    for number, line in enumerate(lines, 2):
        path, kind, device, root = [*line.split(), "0:9", "/"][:4]
        text += f"{number} 1 {device} {root} {path} rw shared:1 - {kind} x rw\n"
    server.write("/proc/self/mountinfo", text)


def test_nothing_of_k3s_stays(server: Node, killed: list[int]) -> None:
    for link in program.LINKS:
        server.at(f"/usr/local/bin/{link}").symlink_to("k3s")
    server.write("/etc/rancher/node/password", "secret")
    server.write("/var/lib/kubelet/config", "x")
    server.write("/var/lib/cni/x", "x")
    server.write("/etc/systemd/system/k3s.service.env", "TOKEN=1")
    answer = server.do("reset")
    assert answer == {"was": "server", "clean": True}
    for path in (*program.FOLDERS, *program.PARENTS, "/usr/local/bin/k3s", "/usr/local/bin/ctr"):
        assert not os.path.lexists(server.at(path)), path
    assert not list(server.at("/etc/systemd/system").iterdir())
    assert "disable --now k3s.service" in server.systemctl()
    assert server.do("reset") == {"was": "none", "clean": True}


def test_what_others_put_there_stays(server: Node, killed: list[int]) -> None:
    kubectl = server.write("/usr/local/bin/kubectl", "another one")
    other = server.write("/etc/rancher/other/config", "x")
    unit = server.write("/etc/systemd/system/sshd.service", "x")
    server.do("reset")
    assert kubectl.exists()
    assert other.exists()
    assert unit.exists()


def test_processes_of_k3s_and_its_containers_end_and_others_do_not(
    server: Node, killed: list[int]
) -> None:
    process(server, 10, 1, "/usr/sbin/sshd")
    process(server, 20, 1, "/usr/local/bin/etcd", "/system.slice/k3s.service")
    process(server, 30, 1, "containerd-shim-runc-v2 -address /run/k3s/containerd/containerd.sock")
    process(server, 31, 30, "/pause")
    process(server, 32, 31, "sh")
    process(server, 40, 1, "containerd-shim-runc-v2 -address /run/containerd/containerd.sock")
    process(server, 50, 1, "grep", "/system.slice/my-k3s.service.d")
    server.do("reset")
    assert sorted(killed) == [20, 30, 31, 32]


def test_we_do_not_end_ourselves(server: Node, killed: list[int]) -> None:
    process(server, 20, 1, "sh", "/system.slice/k3s.service")
    process(server, os.getpid(), 20, "muster-k3s", "/system.slice/k3s.service")
    assert program.leftover_processes(server.host) == []


def test_mounts_go_the_innermost_first_and_disks_stay(server: Node) -> None:
    mounts(
        server,
        "/run/k3s/containerd/rootfs overlay",
        "/run/k3s/containerd/rootfs/dev\\040shm tmpfs",
        "/var/lib/kubelet/pods/1/volumes/x tmpfs",
        "/var/lib/kubelet/pods/1/volumes/y ext4 8:2 /",
        "/var/lib/rancher/k3s ext4 8:2 /",
        "/var/lib/rancher/k3s/storage xfs 8:3 /",
        "/run/netns/cni-1 nsfs",
        "/run/k3sother tmpfs",
        "/tmp tmpfs",
    )
    found = program.leftover_mounts(server.host)
    assert found[:2] == ["/var/lib/kubelet/pods/1/volumes/x", "/var/lib/kubelet/pods/1/volumes/y"]
    assert found[2:] == [
        "/run/k3s/containerd/rootfs/dev shm",
        "/run/k3s/containerd/rootfs",
        "/run/netns/cni-1",
    ]


def test_what_others_share_is_taken_down_and_not_emptied(server: Node) -> None:
    server.write(
        "/etc/fstab",
        "nas:/x /var/lib/rancher/k3s/storage nfs defaults 0 0\n"
        "/srv/x /var/lib/rancher/k3s/shared none bind 0 0\n"
        "/dev/sdb1 /var/lib/rancher/k3s ext4 defaults 0 2\n",
    )
    mounts(
        server,
        "/var/lib/rancher/k3s ext4 8:17 /",
        "/var/lib/rancher/k3s/storage nfs4 0:50 /x",
        "/var/lib/rancher/k3s/shared ext4 8:1 /srv/x",
        "/srv/disk xfs 8:3 /",
        "/var/lib/rancher/k3s/disk xfs 8:3 /",
        "/var/log/pods nfs4 0:51 /logs",
    )
    assert sorted(program.leftover_mounts(server.host)) == [
        "/var/lib/rancher/k3s/disk",
        "/var/lib/rancher/k3s/shared",
        "/var/lib/rancher/k3s/storage",
        "/var/log/pods",
    ]


def test_nothing_goes_below_what_is_mounted_and_no_disk_of_k3s(
    server: Node, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the kernel's table did not say."""
    file = server.write("/var/lib/rancher/k3s/storage/precious", "x")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(file.parent))
    with pytest.raises(Failure, match="still mounted"):
        server.do("reset")
    assert file.exists()


def test_a_disk_of_its_own_is_emptied(
    server: Node, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts(server, "/var/lib/rancher/k3s ext4 8:17 /")
    folder = server.at("/var/lib/rancher/k3s")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(folder))
    server.do("reset")
    assert list(folder.iterdir()) == []


def test_what_a_link_to_another_disk_leads_to_goes_as_well(server: Node, killed: list[int]) -> None:
    data, elsewhere = server.at("/var/lib/rancher/k3s"), server.at("/mnt/ssd")
    elsewhere.parent.mkdir()
    data.rename(elsewhere)
    data.symlink_to(elsewhere)
    mine = server.write("/mnt/ssd/holiday.jpg", "x")
    volume = server.write("/mnt/ssd/storage/pvc/data", "x")
    mounts(server, "/mnt/ssd/agent/x tmpfs", "/mnt/ssd2 tmpfs")
    assert program.leftover_mounts(server.host) == ["/mnt/ssd/agent/x"]
    server.do("reset")
    assert not os.path.lexists(data)
    assert list(elsewhere.iterdir()) == [mine]
    assert not volume.exists()


def test_k3s_s_own_tools_clean_the_packet_filter_where_the_host_has_none(
    server: Node, killed: list[int]
) -> None:
    aux = server.at("/var/lib/rancher/k3s/data/current/bin/aux")
    aux.mkdir(parents=True)
    for name in ("iptables-save", "iptables-restore"):
        (server.root / "bin" / name).rename(aux / name)
    rules = server.write("/rules", "*filter\n-A FORWARD -j KUBE-FORWARD\nCOMMIT\n")
    server.do("reset")
    assert rules.read_text() == "*filter\nCOMMIT\n"


def test_what_is_mounted_is_taken_down(server: Node, killed: list[int]) -> None:
    mounts(server, "/run/k3s/containerd/rootfs overlay", "/tmp tmpfs")
    server.do("reset")
    left = server.at("/proc/self/mountinfo").read_text().splitlines()
    assert [line.split()[4] for line in left] == ["/", "/tmp"]


def test_a_folder_that_is_mounted_on_itself_is_no_disk(server: Node) -> None:
    """As the kubelet's is; a disk, or a volume of a container, has another folder there."""
    mounts(
        server,
        "/var/lib/kubelet ext4 8:1 /var/lib/kubelet",
        "/var/lib/rancher/k3s ext4 8:1 /data/k3s",
    )
    assert program.leftover_mounts(server.host) == ["/var/lib/kubelet"]


def test_a_disk_that_fstab_names_stays(server: Node) -> None:
    server.write("/etc/fstab", "# x\n/x /var/lib/kubelet none bind 0 0\n")
    mounts(server, "/var/lib/kubelet ext4 8:1 /var/lib/kubelet")
    assert program.leftover_mounts(server.host) == []


def test_a_folder_that_is_in_use_stays_and_is_empty(
    server: Node, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.write("/var/lib/kubelet/x", "x")
    rmdir = os.rmdir

    def busy(path: str) -> None:
        if path.endswith("/kubelet"):
            raise OSError(program.errno.EBUSY, "busy")
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", busy)
    assert server.do("reset")["clean"]
    assert list(server.at("/var/lib/kubelet").iterdir()) == []


def test_what_a_mounted_volume_holds_does_not_go(server: Node, killed: list[int]) -> None:
    mounts(server, "/var/lib/kubelet/pods/1/volumes/x nfs4")
    (server.root / "umount-fails").touch()
    volume = server.write("/var/lib/kubelet/pods/1/volumes/x/data", "precious")
    with pytest.raises(Failure, match="still mounted") as caught:
        server.do("reset")
    assert caught.value.code == "not_clean"
    assert volume.exists()


def test_a_link_into_another_folder_is_not_followed(
    server: Node, killed: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside: Path = tmp_path_factory.mktemp("outside")
    (outside / "precious").touch()
    server.write("/var/lib/kubelet/x", "x")
    server.at("/var/lib/kubelet/link").symlink_to(outside)
    server.do("reset")
    assert (outside / "precious").exists()


def test_rules_and_links_of_k3s_go_and_others_stay(server: Node, killed: list[int]) -> None:
    (server.root / "rules").write_text(
        "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n-A INPUT -p tcp -j ACCEPT\n"
        "-A FORWARD -j KUBE-FORWARD\n-A POSTROUTING -j CNI-HOSTPORT-MASQ\nCOMMIT\n"
    )
    (server.root / "links").write_text(
        "1: lo: <UP>\n2: eth0@if5: <UP>\n3: cni0: <UP>\n4: flannel.1: <UP>\n5: docker0: <UP>\n"
    )
    server.do("reset")
    kept = (server.root / "rules").read_text()
    assert kept == "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n"
    assert (server.root / "links").read_text().count("\n") == 3
    assert "cni0" not in (server.root / "links").read_text()


def test_what_stays_is_told(server: Node, killed: list[int]) -> None:
    (server.root / "links").write_text("3: cni0: <UP>\n")
    server.program("ip", "#!/bin/sh\n[ $1 = -o ] && cat $WORLD/links\n")
    with pytest.raises(Failure, match="link cni0"):
        server.do("reset")
