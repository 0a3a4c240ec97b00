"""Ansible's connection variables as data for pyinfra."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from muster.ansible_inventory import write_private
from muster.become import PASSWORD, PLACEHOLDER
from muster.paths import cache_dir
from muster.secret import Secret

COMMAND_SECONDS = 900
"""Bound of a single command: a device that falls silent fails, it never blocks a run for ever."""

DEFAULT_PORT = 22
_TIMEOUTS = {"banner_timeout": 15, "auth_timeout": 15, "channel_timeout": 15}  # seconds
_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh")
_LOCAL = ("local", "ansible.builtin.local")

# Each variable with its older or longer names; as with Ansible, the last one that is set counts.
_VARIABLES = {
    "connection": ("ansible_connection",),
    "host": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "password": ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"),
    "key": ("ansible_private_key_file", "ansible_ssh_private_key_file"),
    "key_password": ("ansible_ssh_private_key_passphrase", "ansible_private_key_passphrase"),
    "checking": ("ansible_host_key_checking", "ansible_ssh_host_key_checking"),
    "timeout": ("ansible_timeout", "ansible_ssh_timeout"),
    "become": ("ansible_become",),
    "become_method": ("ansible_become_method",),
    "become_user": ("ansible_become_user",),
    "become_password": ("ansible_become_pass", "ansible_become_password"),
}
_ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")

_SWITCHES = {"-A": ("ForwardAgent", "yes")}
_WITH_VALUE = {"-J": "ProxyJump", "-p": "Port", "-i": "IdentityFile", "-l": "User", "-F": "Include"}
_MEANINGLESS = frozenset(
    ("-C", "-q", "-v", "-vv", "-vvv", "-T", "-t", "-tt", "-x", "-a", "-n", "-N", "-4", "-6")
)
# Options of OpenSSH about shared connections, logging and the like: no device is reached otherwise
# without them.
_NO_EFFECT = frozenset(
    (
        "addressfamily",
        "batchmode",
        "compression",
        "connectionattempts",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "globalknownhostsfile",
        "gssapiauthentication",
        "hashknownhosts",
        "identitiesonly",
        "loglevel",
        "passwordauthentication",
        "preferredauthentications",
        "requesttty",
        "serveralivecountmax",
        "serveraliveinterval",
        "tcpkeepalive",
        "updatehostkeys",
        "verifyhostkeydns",
        "visualhostkey",
    )
)
# What pyinfra takes as host data.
_AS_DATA = frozenset(
    (
        "port",
        "user",
        "identityfile",
        "userknownhostsfile",
        "stricthostkeychecking",
        "connecttimeout",
        "forwardagent",
        "include",
    )
)
_CHECKING = ("yes", "no", "off", "ask", "accept-new")


class VariableError(ValueError):
    """A connection variable that is wrong.

    :param variable: its name.
    """

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(message)
        self.variable = variable


def connection_kind(variables: Mapping[str, Any]) -> str:
    """``ssh`` or ``local``.

    :raises VariableError: any other connection.
    """
    name, value = _find(variables, "connection")
    if value in (None, *_SSH):
        return "ssh"
    if value in _LOCAL:
        return "local"
    raise VariableError(name, f"expected ssh or local, got {value!r}")


def address(variables: Mapping[str, Any], default: str) -> str:
    """Host name or address, the device's own name if there is none."""
    name, value = _find(variables, "host")
    if value is None:
        return default
    if not isinstance(value, str) or not value or value != value.strip():
        raise VariableError(name, f"expected a host name or an address, got {value!r}")
    return value


def port(variables: Mapping[str, Any]) -> int:
    """TCP port of the SSH server."""
    name, value = _find(variables, "port")
    if value is None:
        name, value = _ARGUMENTS[1], _options(variables).get("port")
    if value is None:
        return DEFAULT_PORT
    number = int(value) if str(value).isdecimal() else 0
    if not 0 < number < 65536 or isinstance(value, bool):
        raise VariableError(name, f"expected a port from 1 to 65535, got {value!r}")
    return number


def connection_data(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Connection data for pyinfra.

    :param variables: the device's variables, rendered.
    :param name: the device's name.
    :raises VariableError: a wrong value.
    """
    data: dict[str, Any] = {"_timeout": COMMAND_SECONDS, **_escalation(variables)}
    if connection_kind(variables) == "local":
        return data
    options = _options(variables)
    data |= {
        "ssh_hostname": address(variables, name),
        "ssh_strict_host_key_checking": _host_key_checking(variables, options),
        "ssh_paramiko_connect_kwargs": _TIMEOUTS | _connect_timeout(variables, options),
    }
    if _find(variables, "port")[1] is not None or "port" in options:
        data["ssh_port"] = port(variables)
    if user := _find(variables, "user")[1] or options.get("user"):
        data["ssh_user"] = str(user)
    if key := _key_file(variables, options):
        data["ssh_key"] = key
    for target, source in (("ssh_password", "password"), ("ssh_key_password", "key_password")):
        if (value := _find(variables, source)[1]) is not None:
            data[target] = str(value)
    if known_hosts := options.get("userknownhostsfile"):
        data["ssh_known_hosts_file"] = _local_path(known_hosts.split()[0])
    if options.get("forwardagent") == "yes":
        data["ssh_forward_agent"] = True
    if configuration := _configuration(data, options):
        data["ssh_config_file"] = configuration
    return data


def jump_host(variables: Mapping[str, Any]) -> str | None:
    """``[USER@]HOST[:PORT]`` that connections go through, None if they are direct."""
    found = _options(variables).get("proxyjump", "none")
    return None if found.lower() == "none" else found


def truth(value: Any) -> bool | None:
    """What Ansible takes for a boolean; None for anything else."""
    text = str(value).strip().lower()
    if text in ("yes", "true", "on", "1", "y", "t", "1.0"):
        return True
    return False if text in ("no", "false", "off", "0", "n", "f", "0.0") else None


def _find(variables: Mapping[str, Any], key: str) -> tuple[str, Any]:
    names = _VARIABLES[key]
    for name in reversed(names):
        if variables.get(name) is not None:
            return name, variables[name]
    return names[-1], None


def _boolean(variables: Mapping[str, Any], key: str, default: bool) -> bool:
    name, value = _find(variables, key)
    if value is None:
        return default
    if (result := truth(value)) is None:
        raise VariableError(name, f"expected true or false, got {value!r}")
    return result


def _escalation(variables: Mapping[str, Any]) -> dict[str, Any]:
    if not _boolean(variables, "become", default=False):
        return {}
    name, method = _find(variables, "become_method")
    method = str(method or "sudo").removeprefix("ansible.builtin.")
    user = _find(variables, "become_user")[1]
    password_name, password = _find(variables, "become_password")
    if method not in ("sudo", "doas", "dzdo"):
        raise VariableError(name, f"expected sudo, doas or dzdo, got {method!r}")
    data: dict[str, Any] = {f"_{method}": True}
    if user not in (None, "root"):
        data[f"_{method}_user"] = str(user)
    if password is not None:
        if method != "sudo":
            raise VariableError(password_name, f"expected no password: {method} can't be given one")
        data |= {"_sudo_password": PLACEHOLDER, PASSWORD: Secret(str(password))}
    return data


def _options(variables: Mapping[str, Any]) -> dict[str, str]:
    """Options of ``ssh``, in lower case; what comes first counts, as with ``ssh`` itself."""
    found: dict[str, str] = {}
    for name in _ARGUMENTS:
        try:
            for option, value in _parse_arguments(str(variables.get(name) or "")):
                found.setdefault(option.lower(), value)
        except ValueError as error:
            raise VariableError(name, str(error)) from None
    return found


def _parse_arguments(text: str) -> Iterator[tuple[str, str]]:
    words = iter(shlex.split(text))
    for word in words:
        flag, attached = word[:2], word[2:]
        if word in _MEANINGLESS:
            continue
        if word in _SWITCHES:
            yield _SWITCHES[word]
        elif flag in _WITH_VALUE or flag == "-o":
            value = attached or next(words, "")
            if not value:
                raise ValueError(f"expected a value after {flag}")
            yield (_WITH_VALUE[flag], value) if flag != "-o" else _parse_option(value)
        else:
            raise ValueError(f"expected options that name how to connect, got {word!r}")


def _parse_option(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or " " in name.strip():
        name, _, value = text.strip().partition(" ")
    if not name.strip() or not value.strip():
        raise ValueError(f"expected -o NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def _host_key_checking(variables: Mapping[str, Any], options: Mapping[str, str]) -> str:
    name, value = _find(variables, "checking")
    if value is not None:
        return "yes" if _boolean(variables, "checking", default=True) else "no"
    checking = options.get("stricthostkeychecking", "yes").lower()
    if checking not in _CHECKING:
        raise VariableError(name, f"expected {', '.join(_CHECKING)}, got {checking!r}")
    # "ask" has nobody to ask: a device with an unknown key is refused
    return "yes" if checking == "ask" else checking


def _connect_timeout(variables: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, int]:
    name, value = _find(variables, "timeout")
    value = options.get("connecttimeout") if value is None else value
    if value is None:
        return {}
    if not str(value).isdecimal():
        raise VariableError(name, f"expected a whole number of seconds, got {value!r}")
    return {"timeout": int(value)}


def _key_file(variables: Mapping[str, Any], options: Mapping[str, str]) -> str | None:
    name, value = _find(variables, "key")
    value = value or options.get("identityfile")
    if not value:
        return None
    path = _local_path(str(value))
    if not Path(path).is_file():
        raise VariableError(name, f"expected a file with a private key, {path} is none")
    return path


def _local_path(text: str) -> str:
    return str(Path(text.strip('"')).expanduser().absolute())


def _configuration(data: Mapping[str, Any], options: Mapping[str, str]) -> str | None:
    """Write what pyinfra only takes from a configuration of ``ssh``, such as jump hosts.

    The user's own configuration follows, so that it says how to reach the jump hosts; hosts with
    an unknown key are refused unless it says otherwise, as nobody is there to be asked.
    """
    extra = {key: value for key, value in options.items() if key not in _AS_DATA | _NO_EFFECT}
    include = options.get("include")
    if not extra:
        return _local_path(include) if include else None
    given = {"Port": data.get("ssh_port"), "User": data.get("ssh_user")}
    lines = [f"Host {data['ssh_hostname']}"]
    lines += [f"  {key} {value}" for key, value in given.items() if value is not None]
    lines += [f"  {key} {value}" for key, value in sorted(extra.items())]
    lines += ["Host *", f"Include {_local_path(include or '~/.ssh/config')}"]
    lines += ["Host *", "  StrictHostKeyChecking yes"]
    text = "\n".join(lines) + "\n"
    path = cache_dir() / "ssh" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.conf"
    write_private(path, text)
    return str(path)
