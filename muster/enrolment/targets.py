"""Which devices are to be enrolled: names, addresses, ranges of addresses, or a CSV file."""

from __future__ import annotations

import csv
import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.errors import InputError

COLUMNS = ("host", "name", "port", "user", "site", "hardware", "fingerprint", "groups")
"""Columns of a CSV file; only ``host`` must be there."""

MOST = 1024
"""Devices that one run may be about: a larger range is a typing error."""

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NAME_OF_GROUP = re.compile(r"all|ungrouped|(site|hw)_.*")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,62}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}\$?")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_NAMES = re.compile(r"(?P<head>[^\[\]]*)\[(?P<first>\d+):(?P<last>\d+)\](?P<tail>[^\[\]]*)")
_SHORT_RANGE = re.compile(r"(?P<head>(\d{1,3}\.){3})(?P<first>\d{1,3})-(?P<last>\d{1,3})")
_LONG_RANGE = re.compile(r"(?P<first>(\d{1,3}\.){3}\d{1,3})-(?P<last>(\d{1,3}\.){3}\d{1,3})")


@dataclass(frozen=True)
class Target:
    """One device to be enrolled.

    :param host: name or address at which it is reached.
    :param name: its name in the inventory, if the operator gave one.
    :param site: its ``site_*`` group, with the prefix.
    :param hardware: its ``hw_*`` group as the operator says, with the prefix.
    :param fingerprint: of its host key, as the operator says.
    :param searched: whether it is part of a range: that nobody answers there is no failure.
    """

    host: str
    name: str | None = None
    port: int | None = None
    user: str | None = None
    site: str | None = None
    hardware: str | None = None
    fingerprint: str | None = None
    groups: tuple[str, ...] = ()
    searched: bool = False


def read_targets(words: Sequence[str]) -> tuple[Target, ...]:
    """Understand what was given on the command line.

    Each word is ``[NAME=][USER@]HOST[:PORT]``, a range of names ``cam-[01:12]``, a range of
    addresses ``10.0.0.10-40`` or ``10.0.0.10-10.0.0.40``, a network ``10.0.0.0/28``, or the name of
    a CSV file.

    :raises InputError: everything that is wrong.
    """
    found: list[Target] = []
    problems: list[str] = []
    for word in words:
        try:
            if word.endswith(".csv"):
                found += read_csv(Path(word))
            else:
                found += _read_word(word)
        except InputError as error:
            problems += error.problems
    problems += _conflicts(found)
    problems += [
        f"{name}: expected the name of a device, groups are called so"
        for name in dict.fromkeys(target.name or target.host for target in found)
        if _NAME_OF_GROUP.fullmatch(name)
    ]
    if problems:
        raise InputError(problems)
    unique = tuple(dict.fromkeys(found))
    if len(unique) > MOST:
        raise InputError(f"expected at most {MOST} devices in one run, got {len(unique)}")
    return unique


def read_csv(path: Path) -> list[Target]:
    """Read a CSV file whose first line names its columns, some of :data:`COLUMNS`.

    :raises InputError: everything that is wrong, with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path}: can't be read, {reason}") from None
    kept = [(n, line) for n, line in enumerate(text.splitlines(), 1) if _says_something(line)]
    if not kept:
        raise InputError(
            f"{path}: expected a line with columns ({', '.join(COLUMNS)}), got nothing"
        )
    try:
        rows = list(csv.reader((line for _, line in kept), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{path}: expected a CSV file ({error})") from None
    if len(rows) != len(kept):
        raise InputError(f"{path}: expected one device on each line, got a text over several lines")
    header = [cell.strip() for cell in rows[0]]
    if problems := _header_problems(path, header):
        raise InputError(problems)
    targets, problems = [], []
    for (line, _), row in zip(kept[1:], rows[1:], strict=True):
        where = f"{path}: line {line}"
        if len(row) > len(header):
            problems.append(f"{where}: expected {len(header)} columns, got {len(row)}")
            continue
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        try:
            targets.append(_read_row(where, {k: v for k, v in cells.items() if v}))
        except InputError as error:
            problems += error.problems
    if not targets and not problems:
        problems.append(f"{path}: expected at least one device, it has none")
    if problems:
        raise InputError(problems)
    return targets


def group_name(prefix: str, text: str) -> str:
    """A group with its prefix, however it was written: ``harbour`` or ``site_harbour``.

    :raises ValueError: no name of a group.
    """
    name = text.removeprefix(prefix)
    if not _GROUP.fullmatch(name):
        raise ValueError(f"expected a name of small letters, digits and _, got {text!r}")
    return prefix + name


def _says_something(line: str) -> bool:
    return bool(line.strip(" \t,;")) and not line.lstrip().startswith("#")


def _header_problems(path: Path, header: Sequence[str]) -> list[str]:
    problems = []
    for name in header:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f", did you mean {close[0]}?" if close else f": expected {', '.join(COLUMNS)}"
            if "pass" in name.lower():
                hint = ": no secrets in this file; expected --password-file or --ask-password"
            problems.append(f"{path}: unknown column {name!r}{hint}")
        elif header.count(name) > 1:
            problems.append(f"{path}: column {name!r} is there more than once")
    if "host" not in header:
        problems.append(f"{path}: expected a column host in the first line")
    return list(dict.fromkeys(problems))


def _read_row(where: str, cells: Mapping[str, str]) -> Target:
    problems: list[str] = []

    def checked(column: str, pattern: re.Pattern[str], expected: str) -> str | None:
        value = cells.get(column)
        if value is not None and not pattern.fullmatch(value):
            problems.append(f"{where}: {column}: expected {expected}, got {value!r}")
        return value

    def group(column: str, prefix: str) -> str | None:
        try:
            return group_name(prefix, cells[column]) if column in cells else None
        except ValueError as error:
            problems.append(f"{where}: {column}: {error}")
            return None

    host = cells.get("host")
    if host is None:
        problems.append(f"{where}: host: expected a name or an address, got nothing")
    elif not _is_host(host):
        problems.append(f"{where}: host: expected a name or an address, got {host!r}")
    port = None
    if "port" in cells and (port := _port(cells["port"])) is None:
        problems.append(f"{where}: port: expected 1 to 65535, got {cells['port']!r}")
    name = checked("name", _DEVICE_NAME, "letters, digits, '.', '_' and '-'")
    user = checked("user", _USER, "a user's name")
    fingerprint = checked("fingerprint", _FINGERPRINT, "SHA256: and 43 characters")
    site, hardware = group("site", "site_"), group("hardware", "hw_")
    groups = tuple(cells.get("groups", "").split())
    problems += [
        f"{where}: groups: expected names of small letters, digits and _, got {name!r}"
        for name in groups
        if not _GROUP.fullmatch(name)
    ]
    if problems:
        raise InputError(problems)
    return Target(str(host), name, port, user, site, hardware, fingerprint, groups)


def _read_word(word: str) -> Iterator[Target]:
    name, equals, rest = word.rpartition("=")
    user, at, place = rest.rpartition("@")
    host, port = _split_port(place)
    if equals and not _DEVICE_NAME.fullmatch(name):
        raise InputError(f"{word}: expected a name of letters, digits, '.', '_' and '-' before =")
    if at and not _USER.fullmatch(user):
        raise InputError(f"{word}: expected a user's name before @")
    hosts = list(_hosts(word, host))
    if name and len(hosts) != 1:
        raise InputError(f"{word}: expected one device after {name}=, got {len(hosts)}")
    for each, searched in hosts:
        yield Target(each, name or None, port, user or None, searched=searched)


_DIGITS = 18


def _hosts(word: str, host: str) -> Iterator[tuple[str, bool]]:
    """The hosts that a word stands for, and whether each of them is only searched for."""
    if match := _NAMES.fullmatch(host):
        first, last = match["first"], match["last"]
        if max(len(first), len(last)) > _DIGITS:
            raise InputError(f"{word}: expected a range of numbers with at most {_DIGITS} digits")
        numbers = _span(word, int(first), int(last))
        yield from (
            (f"{match['head']}{number:0{len(first)}}{match['tail']}", False) for number in numbers
        )
    elif match := _SHORT_RANGE.fullmatch(host):
        first, last = f"{match['head']}{match['first']}", f"{match['head']}{match['last']}"
        yield from _addresses(word, first, last)
    elif match := _LONG_RANGE.fullmatch(host):
        yield from _addresses(word, match["first"], match["last"])
    elif "/" in host:
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            raise InputError(f"{word}: expected a network such as 10.0.0.0/28") from None
        if network.num_addresses > MOST + 2:
            raise InputError(f"{word}: expected at most {MOST} addresses, it is a larger network")
        yield from ((str(address), True) for address in network.hosts())
    elif _is_host(host):
        yield host, False
    else:
        raise InputError(
            f"{word}: expected a name, an address, a range such as 10.0.0.10-40, a network or a"
            " file.csv"
        )


def _addresses(word: str, first: str, last: str) -> Iterator[tuple[str, bool]]:
    try:
        begin, end = (int(ipaddress.IPv4Address(text)) for text in (first, last))
    except ValueError:
        raise InputError(f"{word}: expected addresses of four numbers up to 255") from None
    for number in _span(word, begin, end):
        yield str(ipaddress.IPv4Address(number)), True


def _span(word: str, first: int, last: int) -> range:
    if last < first:
        raise InputError(f"{word}: expected a range that goes up")
    if last - first >= MOST:
        raise InputError(f"{word}: expected a range of at most {MOST}")
    return range(first, last + 1)


def _split_port(text: str) -> tuple[str, int | None]:
    if match := re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?", text):
        host, digits = match[1], match[2]
    elif text.count(":") == 1 and "[" not in text:
        host, _, digits = text.partition(":")
    elif match := re.fullmatch(r"(.*\[\d+:\d+\][^:]*):(\d+)", text):
        host, digits = match[1], match[2]
    else:
        return text, None
    if digits is None:
        return host, None
    if (port := _port(digits)) is None:
        raise InputError(f"{text}: expected a port from 1 to 65535, got {digits!r}")
    return host, port


def _port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536 else None


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # What looks like an address and is none is a typing error, not a name.
        looks = re.fullmatch(r"[\d.]+", text) or ":" in text
        return not looks and _HOST_NAME.fullmatch(text) is not None
    return True


def _conflicts(targets: Iterable[Target]) -> list[str]:
    """Two different things that were said about one device, or one name for two devices."""
    problems = []
    places: dict[tuple[str, int | None], Target] = {}
    names: dict[str, Target] = {}
    for target in targets:
        other = places.setdefault((target.host, target.port), target)
        if other != target and not (other.searched or target.searched):
            problems.append(f"{target.host}: given twice, with different words about it")
        if target.name:
            other = names.setdefault(target.name, target)
            if (other.host, other.port) != (target.host, target.port):
                problems.append(f"{target.name}: given to {other.host} and to {target.host}")
    return problems
