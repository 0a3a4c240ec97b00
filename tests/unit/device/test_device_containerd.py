"""What ctr and the network plugins are told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import device
from runtime_programs import IMAGE, NAME, SPEC, Programs, cdi_specification, first_on_path

PLUGINS = ("bridge", "portmap", "firewall")
_PLUGIN = """\
#!/bin/sh
told="$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME"
printf '%s\\n' "$told $(cat)" >>{folder}/plugins
[ ! -e {folder}/{name}-fails ] || {{ echo '{{"code": 11, "msg": "no free address"}}'; exit 1; }}
[ "$CNI_COMMAND" = DEL ] || echo '{{"ips": ["{name}"]}}'
"""

_IP = """\
#!/bin/sh
case $2 in
add) mkdir -p {folder} && echo >{folder}/"$3" ;;
delete) rm {folder}/"$3" ;;
esac
"""


class Ctr:
    """A device with ctr, and what it was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = Programs(root / "bin")
        self.programs.add("ctr")
        self.programs.write("ip", _IP.format(folder=root / "run/netns"))
        for name in PLUGINS:
            script = _PLUGIN.format(name=name, folder=root)
            self.programs.write(f"../usr/lib/cni/{name}", script)
        self.runtime = device.CtrRuntime(device.Paths(str(root)))
        self.has(NAME)
        self.tasks()

    def has(self, *names: str, **labels: str) -> None:
        """Say which containers there are, all with the same labels."""
        self.programs.answer("ctr-containers-list", "".join(f"{name}\n" for name in names))
        found = {"ID": "x", "Labels": {"muster.release": "r1", **labels}}
        self.programs.answer("ctr-containers-info", json.dumps(found))

    def tasks(self, **states: str) -> None:
        """Say which containers were started: ``<process> <state>`` by name."""
        rows = [f"{name}    {row.replace(' ', '    ')}" for name, row in states.items()]
        self.programs.answer(
            "ctr-tasks-list", "\n".join(["TASK    PID    STATUS    ", *rows]) + "\n"
        )

    def plugins(self) -> list[tuple[str, dict[str, Any]]]:
        """What the network plugins were told, in order."""
        path = self.root / "plugins"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            (line.partition(" {")[0], json.loads("{" + line.partition(" {")[2])) for line in lines
        ]

    def said(self) -> list[list[str]]:
        return self.programs.said("ctr")

    def networks(self) -> list[str]:
        folder = self.root / "run/netns"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def ctr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctr:
    made = Ctr(tmp_path)
    monkeypatch.setenv("PATH", first_on_path(made.programs.folder))
    return made


def failure(call: Any, *arguments: Any) -> Any:
    with pytest.raises(device.Failure) as raised:
        call(*arguments)
    return raised.value


def test_a_container_is_created_with_all_that_the_release_says(ctr: Ctr) -> None:
    for path in ("etc/hosts", "etc/resolv.conf"):
        (ctr.root / path).parent.mkdir(exist_ok=True)
        (ctr.root / path).touch()
    ctr.programs.does("ctr-containers-create", f"cat >{ctr.root}/given")
    options = {"memory": 64 << 20, "devices": ["/dev/apex_0"], "env": {"KEY": "do not show"}}
    ctr.runtime.create(NAME, {"muster.model": "digits"}, SPEC | options)
    mounts = ("/run/muster/digits.lock", "/etc/hosts", "/etc/resolv.conf")
    assert ctr.said() == [
        [
            *("containers", "create", "--seccomp"),
            *("--label", "muster.model=digits", "--label", "muster.publish=8000:8080"),
            *("--with-ns", f"network:/run/netns/{NAME}"),
            *(
                word
                for path in mounts
                for word in ("--mount", f"type=bind,src={path},dst={path},options=rbind:ro")
            ),
            *("--env-file", "/dev/stdin", "--memory-limit", "67108864", "--device", "/dev/apex_0"),
            *(IMAGE, NAME),
        ]
    ]
    assert (ctr.root / "given").read_text() == "KEY=do not show\n"


def test_what_a_power_cut_left_of_a_container_is_in_nobodys_way(ctr: Ctr) -> None:
    twice = f'[ -e {ctr.root}/tried ] || {{ touch {ctr.root}/tried; echo "{{}}" >&2; exit 1; }}'
    left = f"ctr: snapshot {NAME}: already exists"
    ctr.programs.does("ctr-containers-create", twice.replace("{}", left))
    gone = f'ctr: container "{NAME}" in namespace "muster": not found'
    ctr.programs.answer("ctr-containers-rm", err=gone, status=1)
    ctr.runtime.create(NAME, {}, SPEC)
    assert [call[:2] for call in ctr.said()] == [
        *(["containers", "create"], ["tasks", "list"], ["containers", "rm"]),
        *(["snapshots", "rm"], ["containers", "create"]),
    ]


def test_names_are_looked_up_where_systemd_resolved_asks_itself(ctr: Ctr) -> None:
    for path in ("etc/resolv.conf", "run/systemd/resolve/resolv.conf"):
        (ctr.root / path).parent.mkdir(parents=True, exist_ok=True)
        (ctr.root / path).touch()
    assert ctr.runtime.network.files() == [("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")]


@pytest.mark.parametrize(
    ("name", "kept"),
    [(NAME, True), ("muster-m-" + "1" * 70 + "-0123456789ab", False), ("muster-m-1..0-ab", False)],
)
def test_containerd_does_not_take_every_name(name: str, kept: bool) -> None:
    identity = device.CtrRuntime.identity(name)
    assert (identity == name) is kept
    assert device.CtrRuntime.identity(identity) == identity
    assert len(identity) <= 76


def test_containers_of_a_model(ctr: Ctr) -> None:
    ctr.has("a", "b", "c", **{"muster.slot": "blue", "muster.spec": "f00"})
    ctr.tasks(a="7 RUNNING", b="8 STOPPED")
    found = ctr.runtime.containers("digits")
    assert [(c.name, c.release, c.slot, c.running) for c in found] == [
        ("a", "r1", "blue", True),
        ("b", "r1", "blue", False),
        ("c", "r1", "blue", False),
    ]
    assert ctr.said()[0] == ["containers", "list", "-q", 'labels."muster.model"==digits']
    assert ctr.runtime.inspect("a") == device.Container("a", "r1", True, "f00", "", "blue")
    ctr.programs.answer("ctr-containers-info", err='ctr: container "x": not found', status=1)
    assert ctr.runtime.inspect("x") is None


def test_an_image_that_is_here(ctr: Ctr) -> None:
    assert not ctr.runtime.image_present(IMAGE)
    ctr.programs.answer("ctr-images-list", IMAGE + "\n")
    assert ctr.runtime.image_present(IMAGE)
    assert ctr.said()[-1] == ["images", "list", "-q", "name==" + IMAGE]


def test_a_pull_uses_what_provisioning_wrote_about_the_registry(ctr: Ctr) -> None:
    ctr.runtime.pull(IMAGE, 60.0)
    assert ctr.said() == [["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", IMAGE]]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (
            "failed to do request: Head: dial tcp: connect: connection refused",
            "registry_unreachable",
        ),
        ("failed to do request: Head: x509: certificate signed by unknown", "registry_unreachable"),
        (f"failed to resolve reference {IMAGE}: {IMAGE}: not found", "pull_failed"),
        ("failed to copy: write /var/lib/containerd: no space left on device", "no_space"),
        ('failed to dial "/run/containerd/containerd.sock": deadline', "runtime_unavailable"),
    ],
)
def test_why_a_pull_failed(ctr: Ctr, said: str, code: str) -> None:
    ctr.programs.answer("ctr-images-pull", err=f"ctr: {said}\n", status=1)
    assert failure(ctr.runtime.pull, IMAGE, 60.0).code == code


def test_what_containerd_says_of_itself(ctr: Ctr) -> None:
    text = "Client:\n  Version:  1.6.20~ds1\n\nServer:\n  Version:  1.6.20~ds1\n  UUID: x\n"
    ctr.programs.answer("ctr-version", text)
    assert ctr.runtime.info() == ("1.6.20~ds1", "/var/lib/containerd")
    config = ctr.root / "etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('version = 2\nroot = "/data/containerd"\n\n[cgroup]\nroot = "/wrong"\n')
    assert ctr.runtime.info()[1] == "/data/containerd"
    ctr.programs.answer("ctr-version", "Client:\n  Version: 1.6.20\n", "failed to dial", 1)
    assert ctr.runtime.info()[0] is None


def test_containerd_is_down(ctr: Ctr) -> None:
    down = 'ctr: failed to dial "/run/containerd/containerd.sock": context deadline exceeded'
    for key in ("ctr-containers-list", "ctr-tasks-list", "ctr-images-list", "ctr-containers-info"):
        ctr.programs.answer(key, err=down, status=1)
    for call in (ctr.runtime.containers, ctr.runtime.inspect, ctr.runtime.image_present):
        found = failure(call, "x")
        assert (found.code, "systemctl status containerd" in found.message) == (
            "runtime_unavailable",
            True,
        )


# Starting


def test_a_start_makes_the_network_first(ctr: Ctr) -> None:
    ctr.has(NAME, **{"muster.publish": "127.70.1.2:61001:8080"})
    command = ctr.runtime.attach_command(NAME)
    assert command == [*device.CTR, "tasks", "start", NAME]
    assert ctr.networks() == [NAME]
    told = ctr.plugins()
    assert [head for head, _ in told] == [
        f"ADD {plugin} {NAME} /run/netns/{NAME} eth0" for plugin in PLUGINS
    ]
    (_, bridge), (_, ports), (_, firewall) = told
    assert bridge["bridge"] == "muster0"
    assert "prevResult" not in bridge
    assert ports["runtimeConfig"]["portMappings"] == [
        {"hostPort": 61001, "containerPort": 8080, "protocol": "tcp", "hostIP": "127.70.1.2"}
    ]
    assert (ports["prevResult"], firewall["prevResult"]) == (
        {"ips": ["bridge"]},
        {"ips": ["portmap"]},
    )


def test_a_container_that_runs_is_attached_to(ctr: Ctr) -> None:
    ctr.tasks(**{NAME: "7 RUNNING"})
    assert ctr.runtime.attach_command(NAME) == [*device.CTR, "tasks", "attach", NAME]
    assert ctr.plugins() == []


def test_what_an_ended_container_left_makes_room(ctr: Ctr) -> None:
    other = "muster-digits-0.9-0123456789ab"
    for name, port in ((NAME, "8000:8080"), (other, "8000:8080"), ("muster-runs", "9000:8080")):
        ctr.runtime.network.join(name, port)
    (ctr.root / "run/netns/somebody-elses").touch()
    ctr.tasks(**{NAME: "7 STOPPED", "muster-runs": "8 RUNNING"})
    ctr.has(NAME, **{"muster.publish": "8000:8080"})
    ctr.runtime.attach_command(NAME)
    assert ["tasks", "delete", "--force", NAME] in ctr.said()
    assert ctr.networks() == [NAME, "muster-runs", "somebody-elses"]
    taken = [told for head, told in ctr.plugins() if head.startswith(f"DEL portmap {other}")]
    assert [told["prevResult"] for told in taken] == [{"ips": ["firewall"]}]


def test_a_network_that_can_not_be_made_is_taken_away(ctr: Ctr) -> None:
    (ctr.root / "portmap-fails").touch()
    ctr.has(NAME, **{"muster.publish": "8000:8080"})
    found = failure(ctr.runtime.attach_command, NAME)
    assert found.code == "runtime_unavailable"
    assert "portmap ADD: no free address" in found.message
    assert ctr.networks() == []


# Stopping


@pytest.fixture
def process() -> Any:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_container_that_stops_loses_its_network(ctr: Ctr, process: Any) -> None:
    ctr.tasks(**{NAME: f"{process.pid} RUNNING"})
    ctr.runtime.network.join(NAME, "8000:8080")
    ctr.programs.does("ctr-tasks-kill", f"kill {process.pid}")
    ctr.runtime.stop(NAME, 10)
    assert ctr.said()[-1] == ["tasks", "kill", NAME], "the image says with which signal"
    assert ctr.networks() == []


def test_a_container_that_does_not_stop_is_killed(ctr: Ctr, process: Any) -> None:
    ctr.tasks(**{NAME: f"{process.pid} RUNNING"})
    ctr.programs.does("ctr-tasks-kill", f'case "$*" in *SIGKILL*) kill -9 {process.pid} ;; esac')
    ctr.runtime.stop(NAME, 0)
    assert ctr.said()[-1] == ["tasks", "kill", "--all", "--signal", "SIGKILL", NAME]
    assert process.wait(5) == -9


def test_what_is_gone_is_no_error(ctr: Ctr, capsys: pytest.CaptureFixture[str]) -> None:
    gone = f'ctr: container "{NAME}" in namespace "muster": not found'
    for key in ("ctr-containers-rm", "ctr-tasks-kill", "ctr-images-rm"):
        ctr.programs.answer(key, err=gone, status=1)
    ctr.runtime.stop(NAME, 10)
    ctr.runtime.remove(NAME)
    ctr.runtime.remove_image(IMAGE)
    assert capsys.readouterr().err == ""


def test_a_removed_container_takes_its_task_and_network_along(ctr: Ctr) -> None:
    ctr.runtime.network.join(NAME, "8000:8080")
    ctr.tasks(**{NAME: "7 STOPPED"})
    ctr.runtime.remove(NAME)
    assert ctr.said()[-2:] == [["tasks", "delete", "--force", NAME], ["containers", "rm", NAME]]
    assert ctr.networks() == []


# CDI


@pytest.mark.parametrize(("version", "known"), [("1.7.2", True), ("2.0.0", True), ("1.7.1", False)])
def test_ctr_has_cdi_from_1_7_2_on(ctr: Ctr, version: str, known: bool) -> None:
    ctr.programs.write("ctr", f"#!/bin/sh\necho ctr github.com/containerd/containerd {version}\n")
    assert ctr.runtime.has_cdi() is known


def test_ctr_without_cdi_gets_the_nodes(ctr: Ctr) -> None:
    cdi_specification(ctr.root)
    ctr.runtime.create(NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"]})
    assert ctr.said()[-1][-4:] == ["--device", "/dev/hailo0", IMAGE, NAME]
    renamed = [{"path": "/dev/npu", "hostPath": "/dev/hailo1"}]
    cdi_specification(ctr.root, deviceNodes=renamed)
    found = failure(ctr.runtime.create, NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"]})
    assert "another name" in found.message
