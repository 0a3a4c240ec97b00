"""Programs of container runtimes on the PATH that note what they are told, and answer."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

IMAGE = f"registry:5000/models/digits@sha256:{'ab' * 32}"
NAME = "muster-digits-1.0-0123456789ab"
SPEC: dict[str, Any] = {
    "release": "1.0-0123456789ab",
    "image": IMAGE,
    "env": {},
    "memory": None,
    "devices": [],
    "endpoint": {"port": 8000, "container_port": 8080, "ready_path": "/v2/health/ready"},
    "publish": "8000",
    "lock": ["/run/muster/digits.lock", "/run/muster/digits.lock"],
}
OPTIONS_BEFORE = {"ctr": 4, "nerdctl": 2}
"""Words of the command line before the subcommand."""

_SCRIPT = """\
#!/bin/sh
printf "%s\\n" {name} "$@" -- >>{folder}/said
shift {before}
for key in "{name}-$1-$2" "{name}-$1" "{name}"; do
    if [ -e "{folder}/$key.sh" ]; then
        . "{folder}/$key.sh"
        exit
    fi
done
"""


class Programs:
    """Programs in a folder that is the first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, *names: str) -> None:
        for name in names:
            before = OPTIONS_BEFORE.get(name, 0)
            self.write(name, _SCRIPT.format(name=name, folder=self.folder, before=before))

    def write(self, name: str, script: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def answer(self, key: str, out: str = "", err: str = "", status: int = 0) -> None:
        """Say what a program does when it is told ``<program>-<word>-<word>``."""
        (self.folder / f"{key}.out").write_text(out)
        (self.folder / f"{key}.err").write_text(err)
        lines = f'cat "{self.folder}/{key}.out"; cat "{self.folder}/{key}.err" >&2; exit {status}'
        self.does(key, lines)

    def does(self, key: str, script: str) -> None:
        """Have a program run some shell when it is told ``<program>-<word>-<word>``."""
        (self.folder / f"{key}.sh").write_text(script + "\n")

    def said(self, *programs: str) -> list[list[str]]:
        """What was called, without the words before the subcommand."""
        path = self.folder / "said"
        if not path.exists():
            return []
        calls = [
            call.split("\n") for call in path.read_text().removesuffix("\n--\n").split("\n--\n")
        ]
        return [
            call[1 + OPTIONS_BEFORE.get(call[0], 0) :]
            for call in calls
            if not programs or call[0] in programs
        ]


def cdi_specification(root: Path, **edits: Any) -> None:
    """Write what stands behind ``hailo.ai/npu=0``."""
    document = {
        "cdiVersion": "0.5.0",
        "kind": "hailo.ai/npu",
        "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/hailo0"}]}}],
        "containerEdits": edits,
    }
    folder = root / "etc/cdi"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hailo.json").write_text(json.dumps(document))


def first_on_path(folder: Path) -> str:
    """The PATH with a folder in front."""
    return f"{folder}:{os.environ['PATH']}"
