"""What runs on a device, run here: scripts for `sh` in a home of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from muster.enrolment import steps
from muster.enrolment.steps import Probed, Root

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFkN6xDU0kT1PIxzGe0VCWYX45Zccd ops@bastion it's"


def run(script: str, home: Path) -> str:
    done = subprocess.run(
        ["sh", "-s"], input=script, env={**os.environ, "HOME": str(home)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(home: Path) -> str | None:
    return steps.read_key_state(run(steps.install_key(KEY), home))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_key_is_installed_once_with_the_rights_that_sshd_wants(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    assert install(tmp_path) == "installed"
    file = tmp_path / ".ssh" / "authorized_keys"
    assert file.read_text() == KEY + "\n"
    assert (mode(file), mode(file.parent), mode(tmp_path)) == (0o600, 0o700, 0o755)
    before = file.stat().st_ino
    assert install(tmp_path) == "present"
    assert file.stat().st_ino == before
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]


def test_other_keys_stay_and_a_missing_newline_is_no_trap(tmp_path: Path) -> None:
    file = tmp_path / ".ssh" / "authorized_keys"
    file.parent.mkdir()
    file.write_text(f"# was {KEY}\nssh-rsa AAAA theirs")
    assert install(tmp_path) == "installed"
    assert file.read_text() == f"# was {KEY}\nssh-rsa AAAA theirs\n{KEY}\n"


def test_a_key_with_options_is_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / ".ssh" / "authorized_keys"
    file.parent.mkdir(mode=0o700)
    file.write_text(f'from="10.0.0.1" {KEY}\n')
    file.chmod(0o600)
    assert install(tmp_path) == "present"


def test_loose_rights_are_mended(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / ".ssh" / "authorized_keys").chmod(0o664)
    assert install(tmp_path) == "mended"
    assert mode(tmp_path / ".ssh" / "authorized_keys") == 0o600


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / ".ssh" / "authorized_keys").symlink_to(tmp_path / "elsewhere")
    assert install(tmp_path) == "installed"
    assert (tmp_path / ".ssh" / "authorized_keys").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == KEY + "\n"


def test_the_probe_is_understood(tmp_path: Path) -> None:
    found = steps.read_probe(run(steps.PROBE, tmp_path))
    assert found.python is not None
    assert found.python >= (3, 8)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("uid=0\nsudo=none\npython=3.11\napt=yes\n", Probed(Root.ALREADY, (3, 11), True)),
        ("motd\nuid=1000\nsudo=free\npython=3.8\napt=no\n", Probed(Root.FREE, (3, 8), False)),
        ("uid=1000\nsudo=password\npython=\napt=yes\n", Probed(Root.PASSWORD, None, True)),
        ("uid=1000\nsudo=none\npython=\napt=yes\n", Probed(Root.NOT, None, True)),
    ],
)
def test_what_a_device_has(output: str, expected: Probed) -> None:
    assert steps.read_probe(output) == expected


def test_a_shell_that_says_something_else() -> None:
    with pytest.raises(ValueError, match="does not answer as expected"):
        steps.read_probe("This account is currently not available.\n")


def test_becoming_root_never_puts_the_password_into_the_command() -> None:
    assert steps.as_root("id", "in", Root.ALREADY, None) == ("id", "in")
    assert steps.as_root("id", "in", Root.FREE, "pw") == ("sudo -n sh -c id", "in")
    command, given = steps.as_root("a 'b'", "in", Root.PASSWORD, "pw")
    assert "pw" not in command
    assert given == "pw\nin"
    with pytest.raises(ValueError, match="--ask-sudo-password"):
        steps.as_root("id", "", Root.PASSWORD, None)
    with pytest.raises(ValueError, match="not root"):
        steps.as_root("id", "", Root.NOT, "pw")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KEY + "\n", ""),
        ("# mine\n" + KEY, ""),
        ("ecdsa-sha2-nistp256 AAAAE2Vj", ""),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "it is a private one"),
        (KEY + "\n" + KEY, "it has 2 lines"),
        ("", "it has 0 lines"),
        ("hello", "such as ssh-ed25519"),
    ],
)
def test_what_may_be_installed(text: str, expected: str) -> None:
    problem = steps.public_key_problem(text)
    assert (expected in problem) if expected else problem == ""
