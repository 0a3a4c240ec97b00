"""``muster-k3s`` on a node: what it says of it, its services, snapshots and tokens."""

from __future__ import annotations

import sqlite3
import time
import zipfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from k3s_stand_ins import Node, node, program

Failure = program.Failure
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(program, "time", clock)
    return slept


def test_a_node_says_what_it_is(server: Node) -> None:
    seen = server.do("inspect")
    assert (seen["role"], seen["unit"], seen["active"]) == ("server", "k3s.service", True)
    assert (seen["binary"], seen["name"]) == ("v1.20.2+k3s1", "server-1")
    assert (seen["datastore"], seen["token"]) == ("etcd", True)
    assert seen["node"]["voter"] is True
    assert "certificates" not in seen


def test_an_agent_reads_its_own_node_object_with_the_kubelet_s_credentials(agent: Node) -> None:
    seen = agent.do("inspect")
    assert (seen["role"], seen["datastore"], seen["token"]) == ("agent", None, False)
    assert seen["node"]["name"] == "agent-1"
    assert any("kubelet.kubeconfig" in word for word in agent.calls()[-1])


def test_a_device_that_is_no_node_says_so(server: Node) -> None:
    server.at("/etc/systemd/system/k3s.service").unlink()
    seen = server.do("inspect")
    assert (seen["role"], seen["active"], seen["node"]) == ("none", False, None)


def test_a_drop_in_may_name_the_node(server: Node) -> None:
    server.write("/etc/rancher/k3s/config.yaml.d/10-name.yaml", '"node-name": "agent-1"\n')
    assert server.do("inspect")["name"] == "agent-1"


def test_an_api_that_is_silent_is_an_answer(server: Node) -> None:
    server.tell(kubectl_fails=["get"], says="connection refused")
    seen = server.do("inspect")
    assert seen["node"] is None
    assert "refused" in seen["error"]
    assert "refused" in program.shortcoming(seen)


def test_certificates_come_without_keys(server: Node) -> None:
    tls = "/var/lib/rancher/k3s/server/tls/"
    server.write(tls + "client-admin.crt", PEM + "\n" + PEM)
    server.write(tls + "etcd/client.crt", PEM)
    server.write(tls + "client-admin.key", "-----BEGIN EC PRIVATE KEY-----")
    found = server.do("inspect", certificates=True)["certificates"]
    assert [each["path"] for each in found] == [tls + "client-admin.crt", tls + "etcd/client.crt"]
    assert found[0]["pem"] == PEM


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"role": "none"}, "no node"),
        ({"active": False}, "does not run"),
        ({"node": None, "error": "kubectl get: refused"}, "refused"),
        ({"node": {"ready": False, "reason": "disk"}}, "disk"),
        ({"node": {"version": "v1.19.1+k3s1"}}, "runs v1.19.1"),
        ({"node": {"voter": False}}, "no voter"),
        ({"node": {"voter": False}, "datastore": "external"}, ""),
        ({"node": {"voter": None}}, ""),
    ],
)
def test_what_a_node_falls_short_of(change: dict[str, Any], expected: str) -> None:
    good = {"ready": True, "reason": "", "version": "v1.20.2+k3s1", "voter": True}
    seen = {"role": "server", "unit": "k3s.service", "active": True, "datastore": "etcd"}
    seen |= {"error": "", "node": good, **change}
    if seen["node"]:
        seen["node"] = good | seen["node"]
    told = program.shortcoming(seen, "v1.20.2+k3s1")
    assert expected in told if expected else told == ""


def test_wait_wants_the_kubelet_to_be_heard_of(server: Node, no_waiting: list[float]) -> None:
    assert server.do("wait", version="v1.20.2+k3s1")["node"]["ready"]
    assert len(no_waiting) == 2


def test_a_node_that_was_ready_once_is_not_taken_for_ready(server: Node) -> None:
    server.tell(dead=True)
    with pytest.raises(Failure, match="does not renew its lease"):
        server.do("wait", seconds=0.01)


def test_wait_ends_with_what_is_missing(server: Node) -> None:
    with pytest.raises(Failure, match=r"runs v1.20.2\+k3s1, not v1.21.0\+k3s1"):
        server.do("wait", version="v1.21.0+k3s1", seconds=0.01)


def test_certificates_are_rotated_while_k3s_is_stopped(server: Node) -> None:
    server.do("rotate-certificates")
    assert server.systemctl() == ["stop k3s.service", "start k3s.service"]
    assert server.calls() == [["certificate", "rotate"]]


def test_who_stops_k3s_says_so_to_who_provisions(server: Node) -> None:
    marker = server.at("/run/muster-k3s.stopped")
    for again in (("start", {}), ("take-token", {"token": "K10abc::server:x"})):
        server.write("/etc/rancher/k3s/token", "K10abc::server:x")
        server.do("stop")
        assert marker.exists()
        server.do(again[0], **again[1])
        assert not marker.exists()


def test_k3s_runs_again_although_the_rotation_failed(server: Node) -> None:
    server.tell(fails="certificate")
    with pytest.raises(Failure, match="certificate rotate"):
        server.do("rotate-certificates")
    assert server.systemctl()[-1] == "start k3s.service"


def test_a_snapshot_of_etcd_is_found_again(server: Node) -> None:
    made = server.do("snapshot", name="before")
    assert made["kind"] == "etcd"
    (found,) = server.do("snapshots")["snapshots"]
    assert (found["name"], found["kind"], found["token_is_kept"]) == (made["name"], "etcd", True)


def test_the_mark_of_a_token_does_not_give_it_away(server: Node) -> None:
    server.do("snapshot", name="before")
    assert "secret" not in server.at(program.TOKENS_OF_SNAPSHOTS).read_text()


def test_a_snapshot_of_sqlite_is_a_copy(server: Node) -> None:
    server.at("/var/lib/rancher/k3s/server/db/etcd").rmdir()
    database = server.at("/var/lib/rancher/k3s/server/db/state.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE kine (name TEXT)")
        connection.execute("INSERT INTO kine VALUES ('x')")
        connection.commit()
    made = server.do("snapshot", name="before")
    copy = server.at("/var/lib/rancher/k3s/server/db/snapshots") / made["name"]
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT name FROM kine").fetchall() == [("x",)]
    database.write_bytes(b"broken")
    server.do("stop")
    server.do("restore", snapshot=made["name"])
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM kine").fetchall() == [("x",)]
    assert [path.read_bytes() for path in database.parent.glob("state.db-old-*")] == [b"broken"]


def test_there_is_always_a_sqlite(server: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    server.at("/var/lib/rancher/k3s/server/db/etcd").rmdir()
    database = server.write("/var/lib/rancher/k3s/server/db/state.db", "now")
    then = sqlite_of(server, "x").read_bytes()
    server.do("stop")
    rename = program.os.replace
    found: list[str] = []

    def replace(source: str, target: str) -> None:
        found.append(database.read_text())
        rename(source, target)

    monkeypatch.setattr(program.os, "replace", replace)
    server.do("restore", snapshot="x.sqlite")
    assert (found, database.read_bytes()) == (["now"], then)
    assert [path.read_text() for path in database.parent.glob("state.db-old-*")] == ["now"]


def sqlite_of(server: Node, name: str) -> Path:
    """A snapshot as of a cluster with SQLite."""
    file = server.write(f"/var/lib/rancher/k3s/server/db/snapshots/{name}.sqlite", "")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE kine (name TEXT)")
        rows = [(f"{i:0200}",) for i in range(100)]
        connection.executemany("INSERT INTO kine VALUES (?)", rows)
        connection.commit()
    return file


def test_a_broken_snapshot_of_sqlite_is_not_restored(server: Node) -> None:
    server.at("/var/lib/rancher/k3s/server/db/etcd").rmdir()
    database = server.write("/var/lib/rancher/k3s/server/db/state.db", "now")
    whole = sqlite_of(server, "whole")
    assert server.do("check-snapshot", snapshot=whole.name) == {"snapshot": whole.name}
    folder = whole.parent
    (folder / "cut.sqlite").write_bytes(whole.read_bytes()[:-4096])
    (folder / "garbage.sqlite").write_text("garbage" * 1000)
    (folder / "none.sqlite").touch()
    with closing(sqlite3.connect(folder / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE faces (name TEXT)")
    server.do("stop")
    for name in ("cut", "garbage", "none", "other"):
        for verb in ("check-snapshot", "restore"):
            with pytest.raises(Failure, match=f"the snapshot {name}.sqlite is broken"):
                server.do(verb, snapshot=f"{name}.sqlite")
    assert database.read_text() == "now"
    assert not list(database.parent.glob("state.db?*"))


def test_a_broken_snapshot_of_etcd_is_not_restored(server: Node) -> None:
    name = snapshot_of(server)
    file = server.at("/var/lib/rancher/k3s/server/db/snapshots") / name
    whole = file.read_bytes()
    assert server.do("check-snapshot", snapshot=name) == {"snapshot": name}
    changed = b"x" + whole[1:]
    for content, told in ((b"", "empty"), (whole[:-100], "cut off"), (changed, "checksum")):
        file.write_bytes(content)
        for verb in ("check-snapshot", "restore"):
            with pytest.raises(Failure, match=told):
                server.do(verb, snapshot=name)
    assert not (etcd(server) / "restored").exists()


def test_a_compressed_snapshot_is_read(server: Node) -> None:
    folder = server.write("/var/lib/rancher/k3s/server/db/snapshots/x", "").parent
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a", "a" * 1000)
    assert server.do("check-snapshot", snapshot="a.zip") == {"snapshot": "a.zip"}
    whole = (folder / "a.zip").read_bytes()
    for broken in (whole.replace(b"aaaa", b"aaab", 1), whole[:-30], b""):
        (folder / "a.zip").write_bytes(broken)
        with pytest.raises(Failure, match=r"the snapshot a\.zip is broken"):
            server.do("check-snapshot", snapshot="a.zip")


def test_of_what_k3s_logs_the_message_is_told(server: Node) -> None:
    logged = 'time="2026-01-01T00:00:00Z" level=fatal msg="starting kubernetes: no data"'
    assert program.last_line(f"first\n{logged}\n") == '"starting kubernetes: no data"'
    assert program.last_line("plain\n") == "plain"


def test_a_broken_sqlite_makes_no_snapshot(server: Node) -> None:
    server.at("/var/lib/rancher/k3s/server/db/etcd").rmdir()
    server.write("/var/lib/rancher/k3s/server/db/state.db", "broken" * 1000)
    with pytest.raises(Failure, match=r"state\.db"):
        server.do("snapshot", name="before")
    assert server.do("snapshots")["snapshots"] == []


def test_an_external_datastore_is_not_ours_to_save(server: Node) -> None:
    server.at("/var/lib/rancher/k3s/server/db/etcd").rmdir()
    with pytest.raises(Failure, match="its own tools") as caught:
        server.do("snapshot", name="before")
    assert caught.value.code == "external_datastore"


def test_an_agent_has_nothing_to_save(agent: Node) -> None:
    with pytest.raises(Failure, match="no server"):
        agent.do("snapshot", name="before")


@pytest.mark.parametrize("name", ["../x", "a b", "-x", ""])
def test_a_snapshot_has_a_plain_name(server: Node, name: str) -> None:
    for verb, field in (("snapshot", "name"), ("restore", "snapshot")):
        with pytest.raises(Failure, match=field):
            server.do(verb, **{field: name})


def snapshot_of(server: Node) -> str:
    name: str = server.do("snapshot", name="before")["name"]
    server.do("stop")
    return name


def etcd(server: Node) -> Path:
    return server.at("/var/lib/rancher/k3s/server/db/etcd")


def test_a_snapshot_is_restored(server: Node) -> None:
    server.do("restore", snapshot=snapshot_of(server))
    assert (etcd(server) / "restored").exists()


def test_a_restore_that_fails_leaves_the_datastore_as_it_was(server: Node) -> None:
    (etcd(server) / "mine").touch()
    name = snapshot_of(server)
    server.tell(damaged=True)
    with pytest.raises(Failure, match="cluster-reset"):
        server.do("restore", snapshot=name)
    assert (etcd(server) / "mine").exists()
    assert not list(etcd(server).parent.glob("etcd-old-*"))


def test_a_restore_needs_k3s_to_be_stopped(server: Node) -> None:
    name = snapshot_of(server)
    server.do("start")
    with pytest.raises(Failure, match="stop it first"):
        server.do("restore", snapshot=name)


def test_a_restore_needs_the_token(server: Node) -> None:
    name = snapshot_of(server)
    server.at(program.TOKEN).unlink()
    with pytest.raises(Failure, match="token is not kept") as caught:
        server.do("restore", snapshot=name)
    assert caught.value.code == "no_token"
    server.do("restore", snapshot=name, token="K10abc::server:secret")
    assert (server.root / "secret").read_text() == "K10abc::server:secret"
    assert not any("secret" in word for call in server.calls() for word in call)


@pytest.mark.parametrize(
    ("before", "after"),
    [("newer\n", "secret\n"), ("K10abc::server:newer\n", "K10abc::server:secret\n")],
)
def test_k3s_starts_with_the_token_of_what_was_restored(
    server: Node, before: str, after: str
) -> None:
    name = snapshot_of(server)
    file = server.write("/etc/rancher/k3s/token", before)
    server.do("restore", snapshot=name, token="K10abc::server:secret")
    assert file.read_text() == after


def test_a_password_may_hold_colons(server: Node) -> None:
    name = snapshot_of(server)
    file = server.write("/etc/rancher/k3s/token", "newer\n")
    server.do("restore", snapshot=name, token="K10abc::server:a:b")
    assert file.read_text() == "a:b\n"


def test_a_restore_that_fails_leaves_the_token(server: Node) -> None:
    name = snapshot_of(server)
    file = server.write("/etc/rancher/k3s/token", "newer\n")
    server.tell(damaged=True)
    with pytest.raises(Failure, match="cluster-reset"):
        server.do("restore", snapshot=name, token="K10abc::server:secret")
    assert file.read_text() == "newer\n"


JOINED = "node-name: server-1\nserver: https://192.0.2.1:6443\ntoken-file: /x\n"


def test_a_server_that_joined_is_restored_without_the_one_that_it_joined(server: Node) -> None:
    config = server.write("/etc/rancher/k3s/config.yaml", JOINED)
    server.write("/etc/rancher/k3s/config.yaml.d/10.yaml", "'server': https://a\ndebug: true\n")
    server.do("restore", snapshot=snapshot_of(server))
    used = (server.root / "config-of-reset").read_text()
    assert used == "node-name: server-1\ntoken-file: /x\ndebug: true\n"
    assert (server.root / "modes-of-reset").read_text() == "600 600"
    assert config.read_text() == JOINED
    assert sorted(each.name for each in config.parent.iterdir()) == [
        "config.yaml", "config.yaml.d", "k3s.yaml"
    ]  # fmt: skip


def test_a_restore_may_follow_another_one(server: Node) -> None:
    name = snapshot_of(server)
    server.do("restore", snapshot=name)
    assert server.at("/var/lib/rancher/k3s/server/db/reset-flag").exists()
    (etcd(server).parent / "etcd-old-1700000000").rename(etcd(server).parent / "etcd-old-1")
    server.do("restore", snapshot=name)


def test_a_restore_needs_the_token_of_that_time(server: Node) -> None:
    name = snapshot_of(server)
    server.write("/etc/rancher/k3s/token", "secret\n")
    server.do("rotate-token")
    with pytest.raises(Failure, match="changed since") as caught:
        server.do("restore", snapshot=name)
    assert caught.value.code == "other_token"
    (found,) = server.do("snapshots")["snapshots"]
    assert found["token_is_kept"] is False


def test_an_unknown_snapshot_is_refused(server: Node) -> None:
    server.do("stop")
    with pytest.raises(Failure, match="no snapshot"):
        server.do("restore", snapshot="never-made")


def test_a_server_that_joins_nobody_does_not_forget_its_etcd(server: Node) -> None:
    (etcd(server) / "mine").touch()
    server.do("stop")
    assert server.do("snapshots")["joins"] is False
    with pytest.raises(Failure, match="server:") as caught:
        server.do("put-datastore-aside")
    assert caught.value.code == "makes_cluster"
    assert (etcd(server) / "mine").exists()


def test_other_servers_forget_their_etcd_but_not_their_snapshots(server: Node) -> None:
    server.write("/etc/rancher/k3s/config.yaml", JOINED)
    assert server.do("snapshots")["joins"] is True
    (etcd(server) / "mine").touch()
    name = snapshot_of(server)
    kept = server.do("put-datastore-aside")["kept"]
    assert not etcd(server).exists()
    assert (server.at(kept) / "etcd/mine").exists()
    assert [each["name"] for each in server.do("snapshots")["snapshots"]] == [name]
    assert server.do("put-datastore-aside")["kept"] is None
    server.do("take-datastore-back", kept=kept)
    assert (etcd(server) / "mine").exists()


def test_a_datastore_in_use_is_not_put_aside(server: Node) -> None:
    with pytest.raises(Failure, match="stop it first"):
        server.do("put-datastore-aside")


@pytest.fixture
def token_file(server: Node) -> Path:
    return server.write("/etc/rancher/k3s/token", "secret\n")


def test_a_token_is_rotated(server: Node, token_file: Path) -> None:
    server.do("rotate-token")
    assert server.do("token")["token"] == "K10abc::server:other"
    assert server.calls() == [["token", "rotate"]]
    assert token_file.read_text() == "other\n"  # nothing may come between


def test_a_joined_server_keeps_the_form_of_its_token(server: Node, token_file: Path) -> None:
    token_file.write_text("K10abc::server:secret\n")
    server.do("rotate-token")
    assert token_file.read_text() == "K10abc::server:other\n"


def test_a_rotation_that_was_done_although_k3s_failed_is_not_lost(
    server: Node, token_file: Path
) -> None:
    server.tell(token_time=True)
    with pytest.raises(Failure, match="token rotate"):
        server.do("rotate-token")
    assert token_file.read_text() == "other\n"


def test_a_rotation_that_changed_nothing_has_failed(server: Node, token_file: Path) -> None:
    server.tell(keeps_token=True)
    with pytest.raises(Failure, match="is what it was"):
        server.do("rotate-token")


def test_two_at_once_are_one_too_many(server: Node) -> None:
    with program.alone(server.host), pytest.raises(Failure, match="something else is done"):
        server.do("stop")


def test_the_version_of_the_disk_is_not_that_which_runs(server: Node) -> None:
    server.tell(version="v1.21.0+k3s1")
    seen = server.do("inspect")
    assert (seen["binary"], seen["node"]["version"]) == ("v1.21.0+k3s1", "v1.20.2+k3s1")


def test_the_node_object_of_another_name_is_none(agent: Node) -> None:
    agent.tell(nodes=[node("agent-2")])
    assert "not found" in agent.do("inspect")["error"]


def test_another_token_is_taken_with_a_restart(server: Node) -> None:
    file = server.write("/etc/rancher/k3s/token", "old\n")
    assert server.do("take-token", token="new")["changed"]
    assert file.read_text() == "new\n"
    assert server.systemctl() == ["restart k3s.service"]
    assert not server.do("take-token", token="new")["changed"]


def test_a_token_with_which_k3s_does_not_start_stays(server: Node) -> None:
    file = server.write("/etc/rancher/k3s/token", "old\n")
    (server.root / "start-fails").touch()
    with pytest.raises(Failure, match="systemctl restart k3s"):
        server.do("take-token", token="new")
    assert file.read_text() == "new\n"  # the former one is that of no cluster any more
    assert server.systemctl() == ["restart k3s.service"]


def test_a_node_without_a_token_file_has_none_to_replace(server: Node) -> None:
    with pytest.raises(Failure, match="muster provision"):
        server.do("take-token", token="new")
