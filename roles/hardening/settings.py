"""The files of the role hardening, made from its variables. Pure: knows no device."""

from __future__ import annotations

from roles.facts import SshSession
from roles.hardening.exceptions import PARAMETERS
from roles.hardening.variables import Variables
from roles.operations import File

SSHD = "/etc/ssh/sshd_config.d/00-muster.conf"
"""Read before all others: what sshd reads first holds."""

# What the service reads once ours is in place: ours comes first, and what comes first holds.
SSHD_CHECK = f"""whole=$(mktemp) && trap 'rm -f "$whole"' EXIT
cat "$(newest {SSHD})" /etc/ssh/sshd_config >"$whole" && mkdir -p -m 755 /run/sshd &&
	sshd -t -f "$whole"
"""

BANNER = "/etc/issue.net"
_BY = "# written by the role hardening"


def sshd_options(variables: Variables) -> dict[str, str]:
    """Options of sshd by lower-case name, as ``sshd -T`` shows them."""
    passwords = "yes" if variables.hardening_ssh_passwords else "no"
    root = variables.hardening_ssh_root
    return {
        "passwordauthentication": passwords,
        "kbdinteractiveauthentication": passwords,
        # sshd has an older word for it
        "permitrootlogin": "without-password" if root == "prohibit-password" else root,
        "permitemptypasswords": "no",
        "maxauthtries": str(variables.hardening_ssh_max_tries),
        "logingracetime": "30",
        # a link that died is noticed after a minute and a half
        "clientaliveinterval": "30",
        "clientalivecountmax": "3",
        "x11forwarding": "no",
        "allowagentforwarding": "no",
        # TCP forwarding stays: a device may be the jump host to its site
        "permituserenvironment": "no",
        "usedns": "no",
        "banner": BANNER if variables.hardening_banner else "none",
    }


def sshd_file(variables: Variables) -> File:
    """The drop-in of sshd."""
    lines = [f"{name} {value}" for name, value in sshd_options(variables).items()]
    return File(SSHD, "\n".join([_BY, *lines]) + "\n", "600")


def sshd_takes_effect(variables: Variables) -> str:
    """Shell command that reloads sshd, and sees that ours holds while it is there.

    Some other file may have a word in it too.
    """
    options = sshd_options(variables)
    wanted = "\n".join(f"{name} {value}" for name, value in sorted(options.items()))
    return f"""sshd -t && systemctl reload-or-restart ssh.service || exit 1
[ -e {SSHD} ] && [ -e "$(kept {SSHD})" ] || exit 0
sshd -T | grep -E '^({"|".join(options)}) ' | LC_ALL=C sort |
	sed 's/prohibit-password/without-password/' >/run/muster-sshd-found
diff - /run/muster-sshd-found >&2 <<'wanted'
{wanted}
wanted"""


def parameters(variables: Variables) -> dict[str, int | str]:
    """Kernel parameters."""
    merged = {**PARAMETERS, **variables.hardening_sysctl}
    return {name: value for name, value in sorted(merged.items()) if value is not None}


def sysctl_file(variables: Variables) -> File:
    """Kernel parameters; the leading dash lets a kernel lack one."""
    lines = [f"-{name} = {value}" for name, value in parameters(variables).items()]
    return File("/etc/sysctl.d/91-muster-hardening.conf", "\n".join([_BY, *lines]) + "\n")


def module_file(variables: Variables) -> File:
    """Modules that are never loaded, also not because somebody plugs something in."""
    names = {*variables.hardening_modules}
    if not variables.hardening_usb_storage:
        names |= {"usb-storage", "uas"}
    lines = [line for n in sorted(names) for line in (f"blacklist {n}", f"install {n} /bin/false")]
    return File("/etc/modprobe.d/muster-hardening.conf", "\n".join([_BY, *lines]) + "\n")


def login_files(variables: Variables) -> list[File]:
    """What people who log in get, and what is shown before."""
    limit = "unlimited" if variables.hardening_core_dumps else "0"
    dumps = "[Coredump]\n"
    if not variables.hardening_core_dumps:
        dumps += "Storage=none\nProcessSizeMax=0\n"
    banner = variables.hardening_banner
    return [
        # programs that log in without a shell for people (a deploy) keep their own umask
        File("/etc/profile.d/muster-hardening.sh", f"{_BY}\numask {variables.hardening_umask}\n"),
        File("/etc/security/limits.d/muster-hardening.conf", f"{_BY}\n* hard core {limit}\n"),
        File("/etc/systemd/coredump.conf.d/50-muster.conf", f"{_BY}\n{dumps}"),
        File(BANNER, f"{banner}\n"),
    ]


def ssh_problem(
    variables: Variables, session: SshSession, *, keys: int, by_password: bool
) -> str | None:
    """Why the operator would be locked out, None if not.

    :param session: how the controller came in.
    :param keys: number of keys with which the login user may log in.
    :param by_password: whether the inventory logs in by a password, without a key.
    """
    if session.user == "root" and variables.hardening_ssh_root == "no":
        return (
            "expected hardening_ssh_root to be prohibit-password, as this inventory logs in as"
            " root, got no"
        )
    if variables.hardening_ssh_passwords or session.address is None:
        return None
    if not keys:
        return (
            f"expected a key of {session.user} on the device before passwords are turned off, got"
            " none: enrol the device, or set hardening_ssh_passwords"
        )
    if by_password:
        return (
            "expected an inventory that logs in by key before passwords are turned off, got"
            " ansible_password: take it out, or set hardening_ssh_passwords"
        )
    return None
