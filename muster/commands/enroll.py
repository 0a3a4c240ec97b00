"""The command that brings new devices into an inventory."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from muster.commands.options import inventory_option, json_option
from muster.display import counted, make_console, plain_table
from muster.enrolment import steps
from muster.enrolment.authority import read_authority
from muster.enrolment.enrolling import Result
from muster.enrolment.enrolling import enroll as run_enroll
from muster.enrolment.hostkeys import Rules, read_fingerprints
from muster.enrolment.inventory_file import InventoryFile
from muster.enrolment.plan import Settings, Visit
from muster.enrolment.session import Trouble, load_key
from muster.enrolment.targets import group_name, read_targets
from muster.errors import InputError
from muster.secret import Secret

_STYLES = {
    "enrolled": "bold green",
    "updated": "green",
    "unchanged": "dim",
    "absent": "dim",
    "failed": "bold red",
}
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@inventory_option
@click.option("--site", metavar="NAME", help="Site of the devices; needed where there are several.")
@click.option("--user", metavar="NAME", help="Login. Default: what the inventory says.")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port of the SSH servers.")
@click.option("--jump", metavar="[USER@]HOST", help="Jump host. Default: what the inventory says.")
@click.option("--key", metavar="FILE", type=_FILE, help="Public key to install. Default: yours.")
@click.option(
    "--identity", metavar="FILE", type=_FILE, help="Private key for the first login, if another."
)
@click.option("--password-file", metavar="FILE", type=_FILE, help="Password for the first login.")
@click.option("--ask-password", is_flag=True, help="Ask for that password.")
@click.option("--sudo-password-file", metavar="FILE", type=_FILE, help="Password for sudo.")
@click.option("--ask-sudo-password", is_flag=True, help="Ask for that password.")
@click.option("--accept-new-keys", is_flag=True, help="Pin host keys that nobody vouches for.")
@click.option(
    "--fingerprints", metavar="FILE", type=_FILE, help="Fingerprints of the good host keys."
)
@click.option("--host-ca", metavar="FILE", type=_FILE, help="Public key of the host CA.")
@click.option("--replace-key", is_flag=True, help="The devices were reinstalled: pin other keys.")
@click.option("--hardware", metavar="GROUP", help="Hardware group, where it is not recognised.")
@click.option("--known-hosts", metavar="FILE", type=_FILE, help="Where host keys are pinned.")
@json_option
def enroll(
    hosts: tuple[str, ...],
    inventory_path: Path,
    site: str | None,
    user: str | None,
    port: int | None,
    jump: str | None,
    key: Path | None,
    identity: Path | None,
    password_file: Path | None,
    ask_password: bool,
    sudo_password_file: Path | None,
    ask_sudo_password: bool,
    accept_new_keys: bool,
    fingerprints: Path | None,
    host_ca: Path | None,
    replace_key: bool,
    hardware: str | None,
    known_hosts: Path | None,
    as_json: bool,
) -> int:
    """Bring new devices into an inventory: pin their host keys, install your public key, bring
    Python where it is missing, find out what they are, and write them into their groups.

    HOST is [NAME=][USER@]HOST[:PORT], a range (10.0.0.10-40, cam-[01:12]), a network
    (10.0.0.0/28) or a file.csv with a column host, and name, port, user, site, hardware,
    fingerprint, groups where you want. May be repeated: a second run changes nothing.

    Exit code 1 when a device failed, 2 when the input is invalid; then nothing was connected to.
    """
    targets = read_targets(hosts)
    problems: list[str] = []
    if sum(map(bool, (accept_new_keys, fingerprints, host_ca))) > 1:
        problems.append("expected one of --accept-new-keys, --fingerprints and --host-ca")
    for given, asked, name in (
        (password_file, ask_password, "password"),
        (sudo_password_file, ask_sudo_password, "sudo-password"),
    ):
        if given and asked:
            problems.append(f"expected one of --{name}-file and --ask-{name}")
    if identity is not None:
        try:
            load_key(identity)
        except Trouble as trouble:
            problems.append(f"--identity: {trouble}")
    if problems:
        raise InputError(problems)
    public, private = _operator_key(key, inventory_path)
    try:
        groups = (site and group_name("site_", site), hardware and group_name("hw_", hardware))
    except ValueError as error:
        raise InputError(f"--site or --hardware: {error}") from None
    rules = Rules(
        fingerprints=read_fingerprints(_text(fingerprints), str(fingerprints))
        if fingerprints
        else None,
        authority=host_ca is not None,
        accept_new=accept_new_keys,
        replace=replace_key,
    )
    settings = Settings(
        public_key=public,
        private_key=private,
        user=user,
        port=port,
        site=groups[0],
        hardware=groups[1],
        jump=jump,
        identity=identity,
        authority=read_authority(host_ca) if host_ca else frozenset(),
        rules=rules,
        known_hosts=known_hosts,
        password=_secret(password_file, ask_password, "password of the devices"),
        sudo_password=_secret(sudo_password_file, ask_sudo_password, "password for sudo"),
    )
    with Console(stderr=True).status(f"looking at {counted(len(targets), 'device')}") as status:
        results = run_enroll(inventory_path, targets, settings, _Watch(status))
    if as_json:
        click.echo(json.dumps(_document(inventory_path, results), indent=2, ensure_ascii=False))
    else:
        _show(make_console(), results)
    seen = [result for result in results if result.outcome != "absent"]
    return 1 if not seen or any(result.outcome == "failed" for result in seen) else 0


class _Watch:
    """Shows what happens, and asks the person at the terminal."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def confirm(self, unknown: Sequence[tuple[Visit, str, str | None]]) -> bool | None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        self._status.stop()
        table = plain_table("device", "shows the host key", "instead of")
        for visit, fingerprint, replaces in unknown:
            table.add_row(visit.target.host, fingerprint, replaces or "")
        Console(stderr=True, highlight=False, markup=False).print(table)
        text = f"Are these the keys of your {counted(len(unknown), 'device')}?"
        answer = click.confirm(text, err=True)
        self._status.start()
        return answer

    def step(self, host: str, text: str) -> None:
        self._status.update(Text(f"{host}: {text}"))


def _operator_key(given: Path | None, inventory: Path) -> tuple[str, Path | None]:
    """The public key to install, and the private half if it is here."""
    private: Path | None = None
    if given is None:
        named = InventoryFile(inventory).variable("ansible_ssh_private_key_file")
        candidates = [Path(str(named))] if named else []
        candidates += [Path("~/.ssh") / name for name in _DEFAULT_KEYS]
        present = [path.expanduser() for path in candidates]
        private = next((path for path in present if _public_half(path).is_file()), None)
        if private is None:
            raise InputError(
                "expected a public key to install: --key FILE, or make one: ssh-keygen"
            )
        given = _public_half(private)
    elif given.suffix == ".pub":
        private = given.with_suffix("")
    text = _text(given)
    if problem := steps.public_key_problem(text):
        raise InputError(f"{given}: {problem}")
    line = next(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if private is not None:
        try:
            load_key(private)
        except Trouble:
            private = None  # in an agent, or elsewhere
    return line.strip(), private


def _public_half(private: Path) -> Path:
    return private.with_name(private.name + ".pub")


def _secret(file: Path | None, ask: bool, what: str) -> Secret | None:
    if ask:
        return Secret(click.prompt(what.capitalize(), hide_input=True, err=True))
    if file is None:
        return None
    text = _text(file).rstrip("\r\n")
    if not text or "\n" in text:
        raise InputError(f"{file}: expected one line with the {what}")
    return Secret(text)


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"{path}: can't be read, {reason}") from None


def _document(inventory: Path, results: Sequence[Result]) -> dict[str, object]:
    counts = {name: sum(r.outcome == name for r in results) for name in _STYLES}
    return {
        "inventory": str(inventory),
        **counts,
        "devices": [dataclasses.asdict(result) for result in results],
    }


def _show(console: Console, results: Sequence[Result]) -> None:
    table = plain_table("host", "device", "outcome", "hardware", "what it is, and what was done")
    for result in results:
        if result.outcome == "absent":
            continue
        table.add_row(
            result.host,
            result.name or "-",
            Text(result.outcome, style=_STYLES[result.outcome]),
            Text(result.hardware) if result.hardware else Text("none", style="yellow"),
            _words(result),
        )
    if table.row_count:
        console.print(table)
    counts = [
        counted(number, "device") + f" {name}"
        for name in _STYLES
        if (number := sum(result.outcome == name for result in results))
    ]
    console.print("\n" + ", ".join(counts))


def _words(result: Result) -> Text:
    text = Text(result.what)
    if result.done:
        text.append(f"{'; ' if text else ''}{', '.join(result.done)}", style="dim")
    if any(each.startswith("host key") for each in result.done):
        text.append(f"\nhost key {result.host_key}, {result.trust}", style="dim")
    for note in result.notes:
        text.append(f"\n{note}", style="yellow")
    if result.problem:
        text.append(("\n" if text else "") + result.problem, style="red")
    return text
