"""What the role hardening asks a device."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class AuthorizedKeys(FactBase[int]):
    """Number of keys with which a user may log in, where sshd looks for them."""

    def command(self, user: str) -> str:
        # a CA or a command that vouches for keys counts as one
        return (
            f'user={quote(user)}; home=$(getent passwd "$user" | cut -d: -f6);'
            ' sshd -T -C "user=$user,host=localhost,addr=127.0.0.1" 2>/dev/null'
            " | while read -r option values; do case $option in"
            ' trustedusercakeys|authorizedkeyscommand) [ "$values" = none ] || echo "$values";;'
            " authorizedkeysfile) for file in $values; do"
            ' file=$(echo "$file" | sed "s|%h|$home|g; s|%u|$user|g; s|%%|%|g");'
            " case $file in /*) ;; *) file=$home/$file;; esac;"
            " grep -hE '^[^#]*(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA' \"$file\" 2>/dev/null; done;;"
            " esac; done | sort -u | wc -l"
        )

    @staticmethod
    def default() -> int:
        return 0

    def process(self, output: list[str]) -> int:
        return int(output[-1]) if output and output[-1].isdigit() else 0
