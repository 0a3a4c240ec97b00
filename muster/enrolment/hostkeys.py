"""Host keys: what is pinned, and whether to trust what a device shows. Pure functions."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from muster.errors import InputError

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True)
class HostKey:
    """A public host key.

    :param kind: such as ``ssh-ed25519``.
    :param blob: the key as SSH sends it.
    """

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """``SHA256:...``, as ``ssh-keygen -l`` shows it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def text(self) -> str:
        """As it is written in a known hosts file."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


class Trust(str, Enum):
    """What to do about the key that a device shows."""

    KNOWN = "known"
    """It is the pinned one."""
    ACCEPTED = "accepted"
    """It is new, and something that the operator gave vouches for it."""
    ASK = "ask"
    """It is new: a person has to compare it."""
    REFUSED = "refused"
    """Do not go on."""


@dataclass(frozen=True)
class Judgement:
    """Whether to trust a key, and why.

    :param replaces: fingerprint of the pinned key that this one takes the place of.
    """

    trust: Trust
    why: str
    replaces: str | None = None


@dataclass(frozen=True)
class Rules:
    """What the operator gave to judge new keys by.

    :param fingerprints: of trusted keys, each with the host that it is of ("": any).
    :param authority: whether a host CA was given: then nothing else makes a new key good.
    :param accept_new: take new keys unseen.
    :param replace: a pinned key may be replaced, by one that is trusted as a new one is.
    """

    fingerprints: Mapping[str, frozenset[str]] | None = None
    authority: bool = False
    accept_new: bool = False
    replace: bool = False


def judge(
    shown: HostKey,
    pinned: Sequence[HostKey],
    hosts: Collection[str],
    rules: Rules,
    *,
    said: str | None = None,
    certified: str | None = None,
    revoked: Sequence[HostKey] = (),
) -> Judgement:
    """Decide about the key that a device shows.

    :param pinned: keys that are pinned for the device.
    :param hosts: names and addresses of the device.
    :param said: the fingerprint that the operator gave for this device.
    :param certified: why the certificate of the host CA does not hold, "" if it does.
    :param revoked: keys that must never be trusted.
    """
    if shown in revoked:
        return Judgement(Trust.REFUSED, f"host key {shown.fingerprint} is marked @revoked")
    if shown in pinned:
        return Judgement(Trust.KNOWN, "pinned")
    replaces = pinned[0].fingerprint if pinned else None
    if replaces and not rules.replace:
        return Judgement(
            Trust.REFUSED,
            f"host key changed: pinned is {replaces}, it shows {shown.fingerprint}: somebody is in"
            " between, or the device was reinstalled; if you know that it was: --replace-key",
            replaces,
        )
    trust, why = _judge_new(shown, hosts, rules, said, certified)
    return Judgement(trust, why, replaces)


def _judge_new(
    shown: HostKey, hosts: Collection[str], rules: Rules, said: str | None, certified: str | None
) -> tuple[Trust, str]:
    found = shown.fingerprint
    if said is not None:
        if said == found:
            return Trust.ACCEPTED, "fingerprint given"
        return Trust.REFUSED, f"host key {found} is not the given {said}"
    if rules.fingerprints is not None:
        owners = rules.fingerprints.get(found)
        if owners is None:
            return Trust.REFUSED, f"host key {found} is not in the list of fingerprints"
        if "" in owners or owners & set(hosts):
            return Trust.ACCEPTED, "fingerprint in the list"
        return Trust.REFUSED, f"host key {found} is that of {', '.join(sorted(owners))}"
    if rules.authority:
        if certified == "":
            return Trust.ACCEPTED, "certified by the host CA"
        return Trust.REFUSED, f"host key {found}: {certified or 'no certificate'}"
    if rules.accept_new:
        return Trust.ACCEPTED, "accepted unseen"
    return Trust.ASK, "new"


def read_fingerprints(text: str, source: str) -> dict[str, frozenset[str]]:
    """Read a list of trusted fingerprints.

    Each line is ``SHA256:...``, ``HOST SHA256:...``, or what ``ssh-keygen -l`` prints; ``#`` begins
    a comment.

    :param source: name of the file, for messages.
    :returns: each fingerprint with the hosts that it is of, "" for any host.
    :raises InputError: every line that is none of these.
    """
    found: dict[str, set[str]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if _FINGERPRINT.fullmatch(words[0]) and len(words) == 1:
            found.setdefault(words[0], set()).add("")
        elif len(words) == 2 and _FINGERPRINT.fullmatch(words[1]):
            found.setdefault(words[1], set()).add(words[0])
        elif len(words) > 2 and words[0].isdecimal() and _FINGERPRINT.fullmatch(words[1]):
            found.setdefault(words[1], set()).add("")  # the comment in it is no promise of a host
        else:
            problems.append(f"{source}: line {number}: expected [HOST] SHA256:<43 characters>")
    if not found and not problems:
        problems.append(f"{source}: expected at least one fingerprint, it has none")
    if problems:
        raise InputError(problems)
    return {fingerprint: frozenset(hosts) for fingerprint, hosts in found.items()}


def host_entry(host: str, port: int) -> str:
    """How a known hosts file names a server."""
    return host if port == 22 else f"[{host}]:{port}"


@dataclass(frozen=True)
class _Line:
    """A line of a known hosts file; ``hosts`` is empty for what is no key."""

    text: str
    marker: str = ""
    hosts: str = ""
    key: HostKey | None = None


def _lines(text: str) -> Iterator[_Line]:
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            yield _Line(line)
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            yield _Line(line)
            continue
        yield _Line(line, marker, words[0], HostKey(words[1], blob))


def pinned_keys(text: str, entry: str) -> list[HostKey]:
    """The keys that a known hosts file pins for a server, as :func:`host_entry` names it."""
    return [line.key for line in _lines(text) if line.key and not line.marker
            and _names(line.hosts, entry)]  # fmt: skip


def revoked_keys(text: str) -> list[HostKey]:
    """The keys that a known hosts file marks as revoked, for any server."""
    return [line.key for line in _lines(text) if line.key and line.marker == "@revoked"]


def pin(text: str, entries: Sequence[str], key: HostKey) -> str:
    """Pin a key for a server under several names; its former keys go.

    A line that names further servers keeps those. Comments and other lines stay as they are.

    :returns: the same text when nothing has to change.
    """
    if all(pinned_keys(text, entry) == [key] for entry in entries):
        return text
    rest = unpin(text, entries)
    return f"{rest}{','.join(dict.fromkeys(entries))} {key.text}\n"


def unpin(text: str, entries: Sequence[str]) -> str:
    """Forget the keys of a server under several names; see :func:`pin`."""
    kept = []
    for line in _lines(text):
        if line.key is None or line.marker:
            kept.append(line.text)
            continue
        if not any(_names(line.hosts, entry) for entry in entries):
            kept.append(line.text)
            continue
        others = [name for name in line.hosts.split(",") if not _matches_any(name, entries)]
        if others:
            kept.append(f"{','.join(others)} {line.text.split(None, 1)[1]}")
    return "".join(f"{line}\n" for line in kept)


def _matches_any(name: str, entries: Iterable[str]) -> bool:
    return any(_names(name, entry) for entry in entries)


def _names(hosts: str, entry: str) -> bool:
    """Whether the first field of a line names a server, plainly, by a pattern or by a hash."""
    if hosts.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in hosts.split("|")[2:4])
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.new(salt, entry.encode(), "sha1").digest(), digest)
    found = False
    for pattern in hosts.split(","):
        plain = pattern.removeprefix("!")
        # A bracket is part of the name here, and no set of characters.
        if fnmatch.fnmatchcase(entry.lower(), plain.lower().replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found
