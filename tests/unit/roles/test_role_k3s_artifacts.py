"""What K3s is installed from: compared with its checksums before anything is replaced."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from k3s_in_a_folder import Device
from pyinfra.context import ctx_host

from roles.k3s import operations
from roles.k3s.artifacts import (
    Artifact,
    Release,
    folder_problem,
    location,
    read_sums,
    release,
    release_in_folder,
)
from roles.k3s.facts import Host, HostState, InstalledArtifacts
from roles.k3s.prerequisites import memory_cgroup

VERSION = "v1.33.4+k3s1"
BINARY, STAGED = "/usr/local/bin/k3s", "/usr/local/bin/.k3s.muster-new"
IMAGES = "/var/lib/rancher/k3s/agent/images"
ARCHIVE = "k3s-airgap-images-amd64.tar.gz"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a folder with a release for amd64."""
    folder = tmp_path / "store" / VERSION
    folder.mkdir(parents=True)
    files = {"k3s": "program\n", ARCHIVE: "images\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    lines = [f"{digest(text)}  {name}\n" for name, text in files.items()]
    lines.append(f"{digest('other')}  k3s-airgap-images-amd64.tar.zst\n")
    (folder / "sha256sum-amd64.txt").write_text("".join(lines))
    return tmp_path / "store"


def sums(store: Path) -> str:
    return (store / VERSION / "sha256sum-amd64.txt").read_text()


# On the controller


def test_a_release_in_a_folder(store: Path) -> None:
    found = release_in_folder(str(store), VERSION, "amd64", images=True)
    assert found.binary == Artifact("k3s", digest("program\n"), f"{store}/{VERSION}/k3s")
    assert [each.name for each in found.images] == [ARCHIVE], "the one that is there"
    assert release_in_folder(str(store), VERSION, "amd64", images=False).images == ()


@pytest.mark.parametrize("name", ["k3s", ARCHIVE])
def test_a_damaged_file_is_refused(store: Path, name: str) -> None:
    release_in_folder(str(store), VERSION, "amd64", images=True)
    (store / VERSION / name).write_text("damaged")
    with pytest.raises(ValueError, match=f"{name}: expected the checksum .*damaged or another"):
        release_in_folder(str(store), VERSION, "amd64", images=True)


@pytest.mark.parametrize(
    ("gone", "part"),
    [
        ("k3s", "k3s: expected a file of K3s"),
        (ARCHIVE, "expected one of k3s-airgap-images-amd64.tar.zst, .*none is there"),
        ("sha256sum-amd64.txt", "expected the checksums of K3s v1.33.4"),
    ],
)
def test_a_missing_file_is_told(store: Path, gone: str, part: str) -> None:
    (store / VERSION / gone).unlink()
    with pytest.raises(ValueError, match=part):
        release_in_folder(str(store), VERSION, "amd64", images=True)


def test_another_architecture_has_other_files(store: Path) -> None:
    with pytest.raises(ValueError, match=r"sha256sum-arm64\.txt: expected the checksums"):
        release_in_folder(str(store), VERSION, "arm64", images=True)
    text = f"{'a' * 64}  k3s-armhf\n{'b' * 64}  k3s-airgap-images-arm.tar\n"
    found = release("https://s.example/k3s/", VERSION, "armhf", text, images=True)
    assert found.binary.source == "https://s.example/k3s/v1.33.4%2Bk3s1/k3s-armhf"
    assert [each.name for each in found.images] == ["k3s-airgap-images-arm.tar"]
    with pytest.raises(ValueError, match="expected the checksum of k3s, it is not there"):
        release("https://s.example/k3s", VERSION, "amd64", text, images=True)


def test_checksums_are_read_as_sha256sum_writes_them() -> None:
    text = f"{'a' * 64}  k3s\n{'b' * 64} *./x.tar\r\n\nno line\n{'C' * 64}  upper\n"
    assert read_sums(text) == {"k3s": "a" * 64, "x.tar": "b" * 64}


def test_the_folder_is_looked_at_before_anything_connects(store: Path) -> None:
    assert folder_problem(str(store), VERSION) == ""
    assert "it has v1.33.4+k3s1" in folder_problem(str(store), "v1.33.5+k3s1")
    assert "expected a folder" in folder_problem(str(store / "nowhere"), VERSION)
    (store / VERSION / "sha256sum-amd64.txt").unlink()
    assert "expected sha256sum-amd64.txt" in folder_problem(str(store), VERSION)
    assert location("/a/", VERSION, "k3s") == f"/a/{VERSION}/k3s"


# On a device


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(operations, "_ON_DISK", str(tmp_path))
    found = Device(tmp_path / "device")
    with ctx_host.use(found):
        yield found


def put(device: Device, wanted: Release, text: str) -> Any:
    return device.carry_out(operations.artifacts._inner(wanted, text, ""))


def installed(device: Device) -> Any:
    return device.get_fact(InstalledArtifacts, _timeout=1, version=VERSION)


def test_the_archive_is_placed_and_the_binary_waits(device: Device, store: Path) -> None:
    device.write(BINARY, "former\n", 0o755)
    device.write(f"{IMAGES}/k3s-airgap-images-amd64.tar", "former images\n")
    wanted = release_in_folder(str(store), VERSION, "amd64", images=True)
    done = put(device, wanted, sums(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert device.path(BINARY).read_text() == "former\n"
    assert device.path(STAGED).read_text() == "program\n"
    assert oct(device.path(STAGED).stat().st_mode) == "0o100755"
    assert [each.name for each in device.path(IMAGES).iterdir()] == [ARCHIVE]
    here = installed(device)
    assert (here.staged, here.images) == (digest("program\n"), digest("images\n"))
    assert here.sums == sums(store)
    assert put(device, wanted, sums(store)) is None
    assert device.noops == [f"the files of K3s {VERSION} are there"]


def test_checksums_may_lack_the_end_of_their_last_line(device: Device, store: Path) -> None:
    wanted = release_in_folder(str(store), VERSION, "amd64", images=True)
    cut = sums(store).rstrip("\n")
    done = put(device, wanted, cut)
    assert (done.returncode, done.stderr) == (0, "")
    assert installed(device).sums == sums(store)
    assert put(device, wanted, cut) is None


def test_an_archive_that_somebody_changed_is_placed_again(device: Device, store: Path) -> None:
    wanted = release_in_folder(str(store), VERSION, "amd64", images=True)
    put(device, wanted, sums(store))
    device.write(f"{IMAGES}/{ARCHIVE}", "changed by somebody\n")
    device.uploads.clear()
    assert put(device, wanted, sums(store)).returncode == 0
    assert [Path(path).name for path in device.uploads] == [f".{ARCHIVE}.muster-new"]


def test_what_was_damaged_on_its_way_is_removed(device: Device, store: Path) -> None:
    device.write(BINARY, "former\n", 0o755)
    wanted = release_in_folder(str(store), VERSION, "amd64", images=True)
    (store / VERSION / "k3s").write_text("damaged")
    done = put(device, wanted, sums(store))
    assert done.returncode == 1
    assert "expected the checksum" in done.stderr
    assert "nothing was replaced" in done.stderr
    assert device.path(BINARY).read_text() == "former\n"
    assert not device.path(STAGED).exists()
    assert not device.path(IMAGES).exists()


@pytest.fixture
def url(store: Path) -> Iterator[str]:
    """Give the URL of an artifact store."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            return

    handler = functools.partial(Handler, directory=str(store))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_device_fetches_from_a_store(device: Device, store: Path, url: str) -> None:
    wanted = release(url, VERSION, "amd64", sums(store), images=True)
    assert len(wanted.images) == 2, "the store has one of them"
    done = put(device, wanted, sums(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert device.path(STAGED).read_text() == "program\n"
    assert device.path(f"{IMAGES}/{ARCHIVE}").read_text() == "images\n"
    assert put(device, wanted, sums(store)) is None


def test_a_store_with_another_file_is_refused(device: Device, store: Path, url: str) -> None:
    (store / VERSION / "k3s").write_text("another one")
    wanted = release(url, VERSION, "amd64", sums(store), images=True)
    done = put(device, wanted, sums(store))
    assert done.returncode == 1
    assert "k3s: expected the checksum" in done.stderr
    assert not device.path(STAGED).exists()
    assert not device.path(IMAGES).exists()


def test_a_store_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    program = Path(operations.__file__).parent / "fetch_artifact.py"
    path = tmp_path / "new" / "k3s"
    choice = [str(path), "http://127.0.0.1:1/k3s", "0" * 64]
    done = subprocess.run(
        [sys.executable, str(program), "", *choice], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:1/k3s: ")
    assert len(done.stderr.splitlines()) == 1
    assert not path.exists()


# The kernel's command line


def test_a_raspberry_pi_gets_parameters_and_no_restart(device: Device) -> None:
    path, before = "/boot/firmware/cmdline.txt", "console=tty1 root=/dev/sda2"
    file = device.write(path, f"{before}\n")
    about = Host("arm64", cmdline=path, parameters=before, route=True)
    done = device.carry_out(memory_cgroup._inner(about))
    assert done is not None
    assert done.returncode == 1
    assert "`muster reboot`" in done.stderr
    wanted = "console=tty1 root=/dev/sda2 cgroup_memory=1 cgroup_enable=memory\n"
    assert file.read_text() == wanted
    assert Path(f"{file}.before-k3s").read_text() == "console=tty1 root=/dev/sda2\n"
    again = Host("arm64", cmdline=path, parameters=wanted, route=True)
    done = device.carry_out(memory_cgroup._inner(again))
    assert done is not None
    assert "after the next start" in done.stderr
    assert file.read_text() == wanted


@pytest.mark.parametrize("line", ["", "console=tty1 rootwait"])
def test_a_command_line_that_names_no_root_is_left_alone(device: Device, line: str) -> None:
    path = "/boot/firmware/cmdline.txt"
    file = device.write(path, f"{line}\nroot=/dev/sda2\n")
    before = file.read_text()
    done = device.carry_out(memory_cgroup._inner(Host("arm64", cmdline=path, parameters=line)))
    assert done is not None
    assert done.returncode == 1
    assert f"{path}: expected root= in its first line" in done.stderr
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_another_device_is_told_what_it_lacks(device: Device) -> None:
    done = device.carry_out(memory_cgroup._inner(Host("amd64")))
    assert done is not None
    assert done.returncode == 1
    assert "no controller memory" in done.stderr


def test_this_machine_says_what_it_is(device: Device) -> None:
    found = device.get_fact(HostState, _timeout=1)
    assert found.architecture in ("amd64", "arm64", "armhf")
