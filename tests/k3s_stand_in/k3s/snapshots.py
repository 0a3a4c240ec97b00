"""``k3s etcd-snapshot``."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import config, node
from .config import Settings
from .etcd import Etcd
from .processes import FatalError, log, output

_OWN = {"name": "etcd-snapshot-name", "dir": "etcd-snapshot-dir"}
_OWN |= {
    "snapshot-retention": "etcd-snapshot-retention",
    "etcd-snapshot-name": "etcd-snapshot-name",
}
_WHAT = ("save", "ls", "list", "l", "delete", "prune")


def run(arguments: list[str]) -> int:
    """Run one command.

    :raises FatalError: when it fails.
    """
    what = "save"
    words = list(arguments)
    if words and words[0] in _WHAT:
        what = words.pop(0)
    flags: list[str] = []
    names: list[str] = []
    output_as = "table"
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            names.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        value = value if equals else (words.pop(0) if words else "")
        if name in ("o", "output"):
            output_as = value
        else:
            flags.append(f"--{_OWN.get(name, name)}={value}")
    settings = config.load("server", flags)
    layout = settings.layout
    if not layout.embedded_etcd:
        raise FatalError("etcd-snapshot: etcd datastore disabled")
    store = Snapshots(settings)
    if what == "save":
        store.save()
    elif what == "delete":
        store.delete(names)
    elif what == "prune":
        store.prune()
    else:
        store.show(output_as)
    return 0


@dataclass(frozen=True)
class _Snapshot:
    path: Path

    @property
    def created(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.path.stat().st_mtime))

    @property
    def size(self) -> int:
        return self.path.stat().st_size


class Snapshots:
    """The snapshots of this node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        given = settings.text("etcd-snapshot-dir")
        self.folder = Path(given) if given else settings.layout.snapshots
        self.node = node.name(settings)

    def _found(self) -> list[_Snapshot]:
        if not self.folder.is_dir():
            return []
        files = [each for each in self.folder.iterdir() if each.suffix != ".part"]
        return [_Snapshot(path) for path in sorted(files, key=lambda each: each.stat().st_mtime)]

    def save(self) -> None:
        """Take one."""
        settings = self.settings
        base = settings.text("etcd-snapshot-name", "on-demand")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{base}-{self.node}-{int(time.time())}"
        etcd = Etcd(settings.layout, self.node, node.address(settings), embedded=True)
        output(*etcd.ctl_command("snapshot", "save", str(self.folder / name)), seconds=300)
        (self.folder / name).chmod(0o600)
        log("info", f"Snapshot {name} saved.")

    def delete(self, names: list[str]) -> None:
        """Remove some by their names."""
        if not names:
            raise FatalError("no snapshots given for removal")
        for name in names:
            path = self.folder / name
            if "/" in name or not path.is_file():
                raise FatalError(f"snapshot {name} not found")
            path.unlink()
            log("info", f"Snapshot {name} deleted.")

    def prune(self) -> None:
        """Keep the newest ones that have one base name."""
        base = self.settings.text("etcd-snapshot-name", "on-demand")
        keep = self.settings.number("etcd-snapshot-retention", 5)
        mine = [each for each in self._found() if each.path.name.startswith(f"{base}-{self.node}-")]
        for each in mine[: len(mine) - keep] if keep < len(mine) else []:
            each.path.unlink()
            log("info", f"Snapshot {each.path.name} deleted.")

    def show(self, output_as: str) -> None:
        """List them."""
        found = self._found()
        if output_as == "json":
            items = [
                {
                    "metadata": {"name": f"local-{each.path.name}"},
                    "spec": {
                        "snapshotName": each.path.name,
                        "nodeName": self.node,
                        "location": f"file://{each.path}",
                    },
                    "status": {
                        "size": str(each.size),
                        "creationTime": each.created,
                        "readyToUse": True,
                    },
                }
                for each in found
            ]
            print(json.dumps({"kind": "ETCDSnapshotFileList", "items": items}))
            return
        width = max([len(each.path.name) for each in found], default=4)
        place = max([len(str(each.path)) + 7 for each in found], default=8)
        print(f"{'Name':<{width}} {'Location':<{place}} {'Size':<8} Created")
        for each in found:
            location = f"file://{each.path}"
            print(f"{each.path.name:<{width}} {location:<{place}} {each.size:<8} {each.created}")
