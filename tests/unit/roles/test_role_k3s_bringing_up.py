"""Starting K3s on a device, and putting back what ran before: the real scripts, in a folder."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from k3s_in_a_folder import MUSTER_DEVICE, Device, binary, sha256
from pyinfra.context import ctx_host, ctx_inventory, ctx_state

from roles.facts import kept_path
from roles.k3s import bringing_up
from roles.k3s import tokens as token_files
from roles.k3s.bringing_up import Bringing, brought_up, is_other, is_serving, others_problem
from roles.k3s.facts import NodeState, Undisturbed
from roles.k3s.tokens import Wanted
from roles.operations import File

OLD, NEW = "v1.20.2+k3s1", "v1.21.2+k3s1"
CONFIG, UNIT = "/etc/rancher/k3s/config.yaml", "/etc/systemd/system/k3s.service"
BINARY, STAGED = "/usr/local/bin/k3s", "/usr/local/bin/.k3s.muster-new"
OWN = [Wanted("/etc/rancher/k3s/token"), Wanted("/etc/rancher/k3s/agent-token")]


class Run:
    """One device, and the other hosts of the run."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.others: dict[str, Device] = {}
        self.state = SimpleNamespace(failed_hosts=[])

    def get_host(self, name: str) -> Device:
        return self.others[name]

    def bring_up(
        self,
        version: str = OLD,
        config: str = "",
        tokens: list[Wanted] = OWN,
        *,
        text: str | None = None,
        **options: Any,
    ) -> Any:
        """Carry the operation out; None if it had nothing to do."""
        wanted = Bringing(
            role="server",
            node="cam",
            version=version,
            binary=sha256(text or binary(version)),
            voter=options.pop("voter", False),
            seconds=options.pop("seconds", 5),
            **options,
        )
        files = [File(UNIT, f"unit of {version}\n"), File(CONFIG, f"debug: 1\n{config}", "600")]
        with (
            ctx_host.use(self.device),
            ctx_inventory.use(self),
            ctx_state.use(self.state),
        ):
            return self.device.carry_out(brought_up._inner(wanted, tokens, files))

    def stage(self, version: str, text: str | None = None) -> None:
        self.device.write(STAGED, text or binary(version), 0o755)

    def installed(self) -> Run:
        """Have the old version run."""
        self.stage(OLD)
        done = self.bring_up()
        assert done.returncode == 0, done.stderr
        (self.device.root / "calls").unlink()
        return self


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def read(server: Device, path: str) -> str:
        return server.path(path).read_text().strip()

    monkeypatch.setattr(token_files, "_read", read)
    return Run(Device(tmp_path / "cam"))


def starts(run: Run) -> int:
    return len(run.device.calls("systemctl start --no-block"))


def leftovers(run: Run) -> list[str]:
    return [each.name for each in run.device.root.rglob(".*.muster-*")]


def test_a_first_start_and_then_nothing(run: Run) -> None:
    run.stage(OLD)
    done = run.bring_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert starts(run) == 1
    for path in ("/etc/rancher/k3s/token", "/etc/rancher/k3s/agent-token"):
        assert len(run.device.path(path).read_text()) == 65
        assert oct(run.device.path(path).stat().st_mode) == "0o100600"
    first, second = (run.device.path(wanted.path).read_text() for wanted in OWN)
    assert first != second
    for name in ("kubectl", "crictl", "ctr"):
        assert run.device.path(f"/usr/local/bin/{name}").readlink() == Path("k3s")
    assert run.bring_up() is None
    assert run.device.noops == [f"cam runs K3s {OLD} and is Ready"]
    assert starts(run) == 1
    assert leftovers(run) == []


def test_a_command_that_somebody_installed_stays(run: Run) -> None:
    run.device.write("/usr/local/bin/kubectl", "own")
    run.installed()
    assert run.device.path("/usr/local/bin/kubectl").read_text() == "own"


def test_a_new_configuration_is_one_start(run: Run) -> None:
    run.installed()
    done = run.bring_up(config="snapshotter: native\n")
    assert done.returncode == 0, done.stderr
    assert starts(run) == 1
    assert run.bring_up(config="snapshotter: native\n") is None


@pytest.mark.parametrize(
    ("line", "told"),
    [("lb-server-port: many", "invalid value"), ("unheard-of: 1", "Unknown flag --unheard-of")],
)
def test_what_k3s_does_not_understand_is_refused_before_a_start(
    run: Run, line: str, told: str
) -> None:
    run.installed()
    before = run.device.path(CONFIG).read_text()
    done = run.bring_up(config=f"{line}\n")
    assert done.returncode == 1
    assert told in done.stderr
    assert "nothing was changed" in done.stderr
    assert run.device.path(CONFIG).read_text() == before
    assert starts(run) == 0
    assert leftovers(run) == []
    assert run.bring_up() is None


def test_a_configuration_with_which_k3s_ends_is_put_back(run: Run) -> None:
    run.installed()
    before = run.device.path(CONFIG).read_text()
    done = run.bring_up(config="snapshotter: broken\n")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "cam is not serving: K3s ended 9 times",
        'level=fatal msg="it is broken"',
        f"K3s {OLD} runs again with its former configuration",
    ]
    assert run.device.path(CONFIG).read_text() == before
    assert starts(run) == 2
    assert leftovers(run) == []
    assert run.bring_up() is None


def test_a_first_start_that_fails_leaves_nothing_that_starts(run: Run) -> None:
    run.stage(OLD)
    done = run.bring_up(config="snapshotter: broken\n")
    assert done.returncode == 1
    assert "k3s.service was stopped, and what was new is gone" in done.stderr
    for path in (CONFIG, UNIT, BINARY):
        assert not run.device.path(path).exists()
    assert list(run.device.path("/usr/local/bin").iterdir()) == [], "no link leads nowhere"
    assert run.device.calls("disable --quiet --now k3s.service")
    assert leftovers(run) == []


def test_a_command_of_others_outlives_a_first_start_that_fails(run: Run) -> None:
    own = run.device.write("/usr/local/bin/kubectl", "own")
    run.stage(OLD)
    assert run.bring_up(config="snapshotter: broken\n").returncode == 1
    assert list(own.parent.iterdir()) == [own]


JOINING = "server: https://10.0.0.1:6443\n"


def test_a_server_that_has_become_a_member_of_etcd_is_not_stopped(run: Run) -> None:
    (run.device.root / "voter").write_text("EtcdIsVoter=True@")
    run.stage(OLD)
    done = run.bring_up(config=f"{JOINING}snapshotter: broken\n", voter=True)
    assert done.returncode == 1
    assert 'level=fatal msg="it is broken"' in done.stderr
    assert "cam is a member of etcd now and stays: mend it, provision again" in done.stderr
    assert run.device.calls("disable") == []
    assert "broken" in run.device.path(CONFIG).read_text()
    assert run.device.path("/usr/local/bin/kubectl").exists()
    assert leftovers(run) == []
    assert run.bring_up(config=JOINING, voter=True).returncode == 0
    assert run.bring_up(config=JOINING, voter=True) is None


@pytest.mark.parametrize(
    ("config", "voter", "refused"),
    [
        ("", True, False),  # nobody counts on the one that was to make the cluster
        (JOINING, False, False),
        (JOINING, True, True),
    ],
)
def test_a_first_start_that_made_no_member_of_others_goes_back(
    run: Run, config: str, voter: bool, refused: bool
) -> None:
    if refused:
        (run.device.root / "refused").touch()
    run.stage(OLD)
    done = run.bring_up(config=f"{config}snapshotter: broken\n", voter=voter)
    assert done.returncode == 1
    assert "k3s.service was stopped, and what was new is gone" in done.stderr
    assert not run.device.path(CONFIG).exists()


def test_an_upgrade_replaces_the_binary_with_one_start(run: Run) -> None:
    run.installed()
    run.stage(NEW)
    done = run.bring_up(NEW)
    assert done.returncode == 0, done.stderr
    assert run.device.path(BINARY).read_text() == binary(NEW)
    assert starts(run) == 1
    assert leftovers(run) == []
    assert run.bring_up(NEW) is None


def test_a_version_that_does_not_come_up_makes_room_for_the_former(run: Run) -> None:
    run.installed()
    broken = binary(NEW).replace(f"{NEW} $(", f"{NEW} broken $(")
    run.stage(NEW, broken)
    done = run.bring_up(NEW, text=broken)
    assert done.returncode == 1
    assert f"K3s {OLD} runs again with its former configuration" in done.stderr
    assert run.device.path(BINARY).read_text() == binary(OLD)
    assert run.device.path(UNIT).read_text() == f"unit of {OLD}\n"
    assert starts(run) == 2
    assert leftovers(run) == []
    assert run.bring_up() is None


def test_another_binary_than_the_verified_one_is_not_put_in_place(run: Run) -> None:
    run.installed()
    run.stage(NEW, binary("v1.22.0+k3s1"))
    done = run.bring_up(NEW)
    assert done.returncode == 1
    assert "is another one now, nothing was replaced" in done.stderr
    assert run.device.path(BINARY).read_text() == binary(OLD)
    assert starts(run) == 0


def test_a_run_that_was_cut_off_after_the_replacement_is_repeated(run: Run) -> None:
    run.installed()
    device = run.device
    # the power went after the binary was replaced, before K3s was started
    device.path(kept_path(BINARY)).write_text(binary(OLD))
    device.write(BINARY, binary(NEW), 0o755)
    done = run.bring_up(NEW)
    assert done.returncode == 0, done.stderr
    assert starts(run) == 1
    assert leftovers(run) == []


def test_a_node_that_is_never_ready_is_given_up(run: Run) -> None:
    run.installed()
    (run.device.root / "never-ready").touch()
    done = run.bring_up(config="snapshotter: native\n", seconds=1)
    assert done.returncode == 1
    assert "cam is not serving: the cluster does not tell of cam" in done.stderr
    assert f"K3s {OLD} does not come up either" in done.stderr


def test_the_last_word_of_the_kubelet_that_ran_before_does_not_count(run: Run) -> None:
    run.installed()
    for each in ("never-ready", "beats-until-stopped"):
        (run.device.root / each).touch()
    done = run.bring_up(config="snapshotter: native\n", seconds=1)
    assert done.returncode == 1
    assert "cam is not serving: it was not heard of since its start" in done.stderr


def test_a_learner_is_waited_for(run: Run) -> None:
    run.stage(OLD)
    done = run.bring_up(voter=True, seconds=1)
    assert done.returncode == 1
    assert "it is no voter of etcd yet" in done.stderr
    (run.device.root / "voter").write_text("EtcdIsVoter=True@")
    run.stage(OLD)
    assert run.bring_up(voter=True).returncode == 0


def test_a_node_that_is_not_ready_is_waited_for_without_a_start(run: Run) -> None:
    run.installed()
    (run.device.root / "state").write_text(f"{OLD} Ready=False@\n")
    done = run.bring_up(seconds=1)
    assert done.returncode == 1
    assert "it is not Ready" in done.stderr
    assert starts(run) == 0


def test_a_unit_that_was_stopped_is_started(run: Run) -> None:
    run.installed()
    (run.device.root / "active").unlink()
    assert run.bring_up().returncode == 0
    assert starts(run) == 1


def test_a_node_that_the_cluster_lost_registers_by_a_start(run: Run) -> None:
    run.installed()
    (run.device.root / "state").write_text('Error from server (NotFound): nodes "cam" not found\n')
    run.device.write("/var/lib/muster/digits/state.json", "{}")
    run.device.write("/usr/local/sbin/muster-device", MUSTER_DEVICE, 0o755)
    for name in ("cni0", "eth0"):
        run.device.write(f"/sys/class/net/{name}", "")
    assert run.bring_up().returncode == 0
    assert starts(run) == 1
    assert run.device.calls("ip ") == ["ip link delete cni0"]
    assert run.device.calls("muster-device") == ['muster-device inspect {"model": "digits"}']
    assert run.bring_up() is None


def test_what_another_run_has_begun_is_waited_for_before_anything_is_decided(run: Run) -> None:
    run.installed()
    active = run.device.root / "active"
    active.unlink()
    lock = run.device.path("/run/muster-k3s.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def end() -> None:
        active.write_text("active\n")
        lock.close()

    timer = threading.Timer(1, end)
    timer.start()
    assert run.bring_up() is None
    timer.join()
    assert starts(run) == 0


@pytest.mark.parametrize("begins", ["before it is decided", "after it was decided"])
def test_a_node_to_which_something_else_is_done_is_left_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    run.installed()
    monkeypatch.setattr(bringing_up, "_SPARE_SECONDS", 0)
    if begins.startswith("after"):
        monkeypatch.setattr(Undisturbed, "command", lambda self, seconds: "true")
    before = run.device.path(CONFIG).read_text()
    with run.device.path("/run/muster-k3s.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run.bring_up(config="snapshotter: native\n", seconds=1)
    assert done.returncode == 1
    assert "something else is done to K3s on cam, nothing was changed" in done.stderr
    (run.device.root / "active").unlink()
    stopped = run.device.write("/run/muster-k3s.stopped", "")
    done = run.bring_up(config="snapshotter: native\n")
    assert done.returncode == 1
    assert "K3s was stopped on cam for `muster k3s restore`" in done.stderr
    assert run.device.path(CONFIG).read_text() == before
    assert starts(run) == 0
    assert leftovers(run) == []
    stopped.unlink()
    assert run.bring_up(config="snapshotter: native\n").returncode == 0


def test_a_drop_in_that_nobody_wants_any_more_goes(run: Run) -> None:
    run.installed()
    obsolete = run.device.write("/etc/rancher/k3s/config.yaml.d/50-muster-a.yaml", "a: 1\n")
    own = run.device.write("/etc/rancher/k3s/config.yaml.d/90-own.yaml", "b: 1\n")
    assert run.bring_up().returncode == 0
    assert not obsolete.exists()
    assert own.exists()
    assert starts(run) == 1
    assert (run.device.root / "dropins").read_text().split() == ["90-own.yaml"]


def test_a_removal_that_was_cut_off_before_the_start_is_finished(run: Run) -> None:
    run.installed()
    kept = kept_path("/etc/rancher/k3s/config.yaml.d/50-muster-a.yaml")
    run.device.write(kept, "lb-server-port: 6555\n")
    assert run.bring_up().returncode == 0
    assert starts(run) == 1
    assert leftovers(run) == []
    assert run.bring_up() is None


def test_what_a_run_that_was_cut_off_has_staged_is_not_checked_as_new(run: Run) -> None:
    run.installed()
    run.device.write("/etc/rancher/k3s/.config.yaml.muster-new", "lb-server-port: many\n")
    folder = "/etc/rancher/k3s/config.yaml.d"
    run.device.write(f"{folder}/.50-muster-a.yaml.muster-new", "unheard-of: 1\n")
    run.device.write(f"{folder}/50-muster-b.yaml", "debug: 1\n")
    run.stage(NEW, "#!/bin/sh\necho Unknown flag >&2\n")
    done = run.bring_up()
    assert done.returncode == 0, done.stderr
    assert run.device.path(BINARY).read_text() == binary(OLD)
    assert leftovers(run) == []


def test_a_binary_that_another_run_has_staged_does_not_keep_one_from_being_finished(
    run: Run,
) -> None:
    run.installed()
    run.device.path(kept_path(BINARY)).write_text(binary(NEW))
    run.stage(NEW)
    done = run.bring_up()
    assert done.returncode == 0, done.stderr
    assert run.device.path(BINARY).read_text() == binary(OLD)
    assert leftovers(run) == []


# Servers one after the other


def test_a_server_stays_as_it_is_while_another_one_is_away(run: Run) -> None:
    run.installed()
    run.state.failed_hosts = [SimpleNamespace(name="s2")]
    done = run.bring_up(config="snapshotter: native\n", others=("s2", "s3"))
    assert done.returncode == 1
    assert "the server s2 failed before" in done.stderr
    assert starts(run) == 0
    assert run.bring_up(others=("s2", "s3")) is None, "and nothing keeps it from serving on"


@pytest.mark.parametrize(
    ("role", "failed", "told"),
    [
        ("server", [], ""),
        ("server", ["s9"], ""),
        ("server", ["s1"], "the server s1 failed before"),
        ("agent", ["s1"], ""),
        ("agent", ["s1", "s2"], "no server of the cluster serves (s1, s2 failed)"),
    ],
)
def test_who_must_be_there_for_a_start(role: str, failed: list[str], told: str) -> None:
    wanted = Bringing(role, "cam", OLD, "", False, 5, others=("s1", "s2"))
    found = others_problem(wanted, failed)
    assert (told in found) if told else (found == "")


# Tokens


JOIN = [Wanted("/etc/rancher/k3s/token", "/var/lib/rancher/k3s/server/token", ("s1", "s2"))]
SECRET = "K10abc::server:hunter2\n"


def test_a_token_comes_from_the_first_server_that_has_one(run: Run, tmp_path: Path) -> None:
    run.others = {name: Device(tmp_path / name, name) for name in ("s1", "s2")}
    run.others["s2"].write("/var/lib/rancher/k3s/server/token", SECRET)
    run.stage(OLD)
    done = run.bring_up(tokens=JOIN)
    assert done.returncode == 0, done.stderr
    token = run.device.path("/etc/rancher/k3s/token")
    assert token.read_text() == SECRET
    assert oct(token.stat().st_mode) == "0o100600"
    assert run.bring_up(tokens=JOIN) is None
    # it was rotated: the file follows, K3s goes on
    (run.device.root / "calls").unlink()
    run.others["s2"].write("/var/lib/rancher/k3s/server/token", "K10abc::server:other\n")
    run.bring_up(tokens=JOIN)
    assert token.read_text() == "K10abc::server:other\n"
    assert starts(run) == 0


def test_without_a_server_in_the_run_nobody_joins(run: Run, tmp_path: Path) -> None:
    run.others = {name: Device(tmp_path / name, name) for name in ("s1", "s2")}
    run.others["s1"].connected = False
    run.stage(OLD)
    done = run.bring_up(tokens=JOIN)
    assert done.returncode == 1
    assert "expected a server of the cluster in this run" in done.stderr
    assert starts(run) == 0


def test_a_node_that_has_joined_needs_no_server_in_the_run(run: Run) -> None:
    run.device.write("/etc/rancher/k3s/token", SECRET, 0o640)
    run.stage(OLD)
    nobody = [Wanted(JOIN[0].path, JOIN[0].source, ())]
    assert run.bring_up(tokens=nobody).returncode == 0
    assert oct(run.device.path("/etc/rancher/k3s/token").stat().st_mode) == "0o100600"
    assert run.bring_up(tokens=nobody) is None


def test_a_password_of_the_inventory_counts_when_the_cluster_is_made(run: Run) -> None:
    run.stage(OLD)
    wanted = [Wanted("/etc/rancher/k3s/token", password="from the vault")]
    run.bring_up(tokens=wanted)
    assert run.device.path("/etc/rancher/k3s/token").read_text() == "from the vault\n"
    later = [Wanted("/etc/rancher/k3s/token", password="another one")]
    assert run.bring_up(tokens=later) is None
    assert run.device.path("/etc/rancher/k3s/token").read_text() == "from the vault\n"


# What a node says


SERVER = "/var/lib/rancher/k3s/server"


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ([], False),
        # a join that failed leaves it, and has no cluster
        (["token"], False),
        (["db/etcd/config"], False),
        (["token", "db/etcd/member/wal/0.wal"], True),
        (["token", "db/state.db"], True),
    ],
)
def test_a_server_is_one_whose_datastore_is_there(run: Run, files: list[str], data: bool) -> None:
    for name in files:
        run.device.write(f"{SERVER}/{name}", "x\n")
    assert run.device.get_fact(NodeState, _timeout=1).has_data is data


def test_a_server_with_an_external_datastore_has_a_token(run: Run) -> None:
    run.device.write(CONFIG, "datastore-endpoint: mysql://u:p@tcp(db:3306)/k3s\n")
    assert not run.device.get_fact(NodeState, _timeout=1).has_data
    run.device.write(f"{SERVER}/token", SECRET)
    assert run.device.get_fact(NodeState, _timeout=1).has_data


@pytest.mark.parametrize(
    ("told", "voter", "serves"),
    [
        (f"{OLD} Ready=True@x", False, True),
        (f"{OLD} Ready=False@x", False, False),
        (f"{OLD} Ready=Unknown@x", False, False),
        (f"{NEW} Ready=True@x", False, False),
        (f"{OLD} Ready=True@x", True, False),
        (f"{OLD} Ready=True@x EtcdIsVoter=False@", True, False),
        (f"{OLD} Ready=True@x EtcdIsVoter=True@", True, True),
        ("", False, False),
    ],
)
def test_when_a_node_is_what_it_should_be(told: str, voter: bool, serves: bool) -> None:
    wanted = Bringing("server", "cam", OLD, "", voter, 5)
    assert is_serving(told, wanted) is serves
    assert is_other(told, wanted) is told.startswith(NEW)
