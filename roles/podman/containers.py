"""Containers beside the models: as Quadlet where Podman has it, else as units of our own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from muster.release import EnvName
from roles.operations import File

QUADLET_SINCE = (4, 4)

# What systemd would read as a word's end, a variable or a specifier has no place in these.
Word = Annotated[str, StringConstraints(pattern=r"^[^\s%$\"'\\]+$", max_length=300)]
Published = Annotated[str, StringConstraints(pattern=r"^([0-9.]+:)?[0-9]+:[0-9]+(/udp)?$")]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,60}$")]
ImageByDigest = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9./:_-]*@sha256:[0-9a-f]{64}$")
]


class Container(BaseModel):
    """A container that Podman runs through systemd.

    :param image: with registry and digest.
    :param ports: ``[address:]port:port``.
    :param volumes: ``outside:inside[:options]``.
    :param devices: device nodes, or CDI devices.
    :param arguments: of the program in the container.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: ImageByDigest
    ports: list[Published] = []
    environment: dict[EnvName, Word] = {}
    volumes: list[Word] = []
    devices: list[Word] = []
    network: Literal["host"] | None = None
    arguments: list[Word] = []


def unit_name(name: str) -> str:
    """The unit of a container."""
    return f"{name}.service"


def unit_files(name: str, container: Container, version: tuple[int, ...]) -> tuple[File, str]:
    """Return the file that makes systemd run a container, and a path that must not be there.

    :param version: of Podman.
    """
    quadlet = f"/etc/containers/systemd/{name}.container"
    unit = f"/etc/systemd/system/{unit_name(name)}"
    if version >= QUADLET_SINCE:
        return File(quadlet, _quadlet(container, name)), unit
    return File(unit, _unit(container, name)), quadlet


_ABOUT = "# Written by the role podman: what is changed here is lost."


def _quadlet(container: Container, name: str) -> str:
    lines = [_ABOUT, "[Unit]", f"Description=Container {name}", "[Container]"]
    lines += [f"Image={container.image}", f"ContainerName={name}"]
    lines += [f"PublishPort={port}" for port in container.ports]
    lines += [f"Environment={key}={value}" for key, value in sorted(container.environment.items())]
    lines += [f"Volume={volume}" for volume in container.volumes]
    lines += [f"AddDevice={device}" for device in container.devices]
    lines += [f"Network={container.network}"] if container.network else []
    lines += [f"Exec={' '.join(container.arguments)}"] if container.arguments else []
    lines += ["[Service]", "Restart=always", "RestartSec=2", "TimeoutStartSec=900"]
    return "\n".join([*lines, "[Install]", "WantedBy=multi-user.target"]) + "\n"


def _unit(container: Container, name: str) -> str:
    words = ["/usr/bin/podman", "run", "--rm", "--replace", f"--name={name}"]
    words += ["--sdnotify=conmon", "--cgroups=no-conmon", "--detach"]
    words += [f"--publish={port}" for port in container.ports]
    words += [f"--env={key}={value}" for key, value in sorted(container.environment.items())]
    words += [f"--volume={volume}" for volume in container.volumes]
    words += [f"--device={device}" for device in container.devices]
    words += [f"--network={container.network}"] if container.network else []
    words += [container.image, *container.arguments]
    lines = [_ABOUT, "[Unit]", f"Description=Container {name}", "After=network-online.target"]
    lines += ["Wants=network-online.target", "[Service]", "Type=notify", "NotifyAccess=all"]
    lines += [f"ExecStart={' '.join(words)}"]
    lines += [f"ExecStop=/usr/bin/podman stop --ignore --time=10 {name}"]
    lines += [f"ExecStopPost=-/usr/bin/podman rm --force --ignore {name}"]
    lines += ["Restart=always", "RestartSec=2", "TimeoutStartSec=900", "TimeoutStopSec=60"]
    return "\n".join([*lines, "[Install]", "WantedBy=multi-user.target"]) + "\n"
