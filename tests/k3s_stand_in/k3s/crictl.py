"""The part of ``crictl`` that is used here, by way of ``ctr``: Debian 12 has no cri-tools."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from . import registries
from .config import Settings
from .containerd import ctr_command
from .paths import Layout
from .processes import FatalError, environment, output

_DIGEST = "sha256:"


def run(arguments: list[str]) -> int:
    """Run one command.

    :raises FatalError: when it fails, or is none that the stand-in knows.
    """
    words = [word for word in arguments if not word.startswith("-")]
    # options before the command, such as the endpoint, say nothing new
    while words and words[0] not in _COMMANDS:
        words.pop(0)
    if not words:
        raise FatalError(f"crictl: the stand-in knows {', '.join(_COMMANDS)}, got {arguments}")
    rest = arguments[arguments.index(words[0]) + 1 :]
    _COMMANDS[words[0]](rest)
    return 0


def _ctr(*arguments: str, seconds: float = 600) -> str:
    return output(*ctr_command(), *arguments, seconds=seconds)


def full_name(image: str) -> str:
    """The name of an image as containerd writes it."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    tagged = "@" in image or ":" in image.rpartition("/")[2]
    return image if tagged else f"{image}:latest"


def _option(arguments: list[str], *names: str) -> str:
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else arguments[index + 1]
    return ""


def _pull(arguments: list[str]) -> None:
    image = full_name(arguments[-1])
    registry = image.split("/")[0]
    user, password = registries.credentials(Settings("agent", {})).get(registry, ("", ""))
    given = _option(arguments, "--creds") or (f"{user}:{password}" if user else "")
    command = [*ctr_command(), "images", "pull", "--hosts-dir", str(Layout().certs_d)]
    command += [*(["--user", given] if given else []), image]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["failed"]
        raise FatalError(f"pulling image: {image}: {reason[0]}")
    print(f"Image is up to date for {image}")


def _images() -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for line in _ctr("images", "ls").splitlines()[1:]:
        name, _, digest = line.split()[:3]
        entry = found.setdefault(digest, {"id": "", "repoTags": [], "repoDigests": []})
        entry["size"] = line.split()[3]
        if name.startswith(_DIGEST):
            entry["id"] = name
        elif "@" in name:
            entry["repoDigests"].append(name)
        else:
            entry["repoTags"].append(name)
            repository = re.sub(r":[^:/]+$", "", name)
            entry["repoDigests"].append(f"{repository}@{digest}")
    return list(found.values())


def _list_images(arguments: list[str]) -> None:
    found = _images()
    wanted = [word for word in arguments if "/" in word or word.startswith(_DIGEST)]
    if wanted:
        name = full_name(wanted[0])
        found = [
            each
            for each in found
            if name in each["repoTags"] + each["repoDigests"] or each["id"] == wanted[0]
        ]
    if _option(arguments, "-o", "--output") == "json":
        print(json.dumps({"images": found}))
    elif "-q" in arguments or "--quiet" in arguments:
        print("\n".join(each["id"] for each in found))
    else:
        print(f"{'IMAGE':<50} {'IMAGE ID':<14} SIZE")
        for each in found:
            name = (each["repoTags"] or each["repoDigests"] or ["<none>"])[0]
            print(f"{name:<50} {each['id'][7:20]:<14} {each['size']}")


def _remove(arguments: list[str]) -> None:
    for image in (word for word in arguments if not word.startswith("-")):
        names = [image if image.startswith(_DIGEST) else full_name(image)]
        for each in _images():
            known = [*each["repoTags"], *each["repoDigests"], each["id"]]
            if names[0] in known:
                names = [name for name in known if name]
        listed = set(_ctr("images", "ls", "-q").split())
        if not listed & set(names):
            raise FatalError(f"no such image {image}")
        _ctr("images", "rm", *(name for name in names if name in listed))
        print(f"Deleted: {image}")


def _inspect_image(arguments: list[str]) -> None:
    wanted = arguments[-1]
    name = wanted if wanted.startswith(_DIGEST) else full_name(wanted)
    for each in _images():
        if name in (*each["repoTags"], *each["repoDigests"], each["id"]):
            print(json.dumps({"status": each}))
            return
    raise FatalError(f"no such image {wanted!r} present")


def _containers(arguments: list[str]) -> None:
    running = {
        line.split()[0]: line.split()[2]
        for line in _ctr("tasks", "ls").splitlines()[1:]
        if len(line.split()) == 3
    }
    found = []
    for identifier in _ctr("containers", "ls", "-q").split():
        info = json.loads(_ctr("containers", "info", identifier))
        labels = info.get("Labels") or {}
        if labels.get("io.cri-containerd.kind") != "container":
            continue
        state = "RUNNING" if running.get(identifier) == "RUNNING" else "EXITED"
        found.append(
            {
                "id": identifier,
                "metadata": {"name": labels.get("io.kubernetes.container.name", "")},
                "image": {"image": info.get("Image", "")},
                "labels": labels,
                "state": f"CONTAINER_{state}",
            }
        )
    if not {"-a", "--all"} & set(arguments):
        found = [each for each in found if each["state"] == "CONTAINER_RUNNING"]
    if _option(arguments, "-o", "--output") == "json":
        print(json.dumps({"containers": found}))
    elif {"-q", "--quiet"} & set(arguments):
        print("\n".join(each["id"] for each in found))
    else:
        for each in found:
            print(each["id"][:13], each["image"]["image"], each["state"], each["metadata"]["name"])


def _info(_arguments: list[str]) -> None:
    _ctr("version", seconds=20)
    folder = Path(Layout().agent_etc / "cni/net.d")
    ready = folder.is_dir() and any(folder.iterdir())
    conditions = [
        {"type": "RuntimeReady", "status": True},
        {"type": "NetworkReady", "status": ready},
    ]
    print(json.dumps({"status": {"conditions": conditions}}))


def _version(_arguments: list[str]) -> None:
    text = _ctr("version", seconds=20)
    print("Version:  0.1.0\nRuntimeName:  containerd")
    print(f"RuntimeVersion:  {text.split('Version:')[-1].split()[0]}")


_COMMANDS = {
    "pull": _pull,
    "images": _list_images,
    "image": _list_images,
    "rmi": _remove,
    "inspecti": _inspect_image,
    "ps": _containers,
    "info": _info,
    "version": _version,
}
