"""Operations that several roles of accelerators are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from muster.accelerators import PARTS, mismatch
from roles.accelerators import cdi
from roles.accelerators.facts import (
    AcceleratorState,
    GeneratedCdi,
    Hardware,
    PackageVersions,
)
from roles.accelerators.inputs import AptRepository
from roles.accelerators.seen import Found, Seen, find, missing, read
from roles.facts import FACT_SECONDS
from roles.operations import File, place_files

PUBLISHED = "/etc/muster/accelerator.json"
"""What is known of the accelerator of a device; ``muster-device inspect`` reads it."""

_INSTALL = (Path(__file__).parents[1] / "install_packages.sh").read_text(encoding="utf-8")
_INSTALL_SECONDS = 1800


def refusal(text: str) -> StringCommand:
    """Command that changes nothing and fails with a reason."""
    script = f"echo {quote(text)} >&2\nexit 1\n"
    return StringCommand("sh", "-s", "refuse", _stdin=script, _timeout=FACT_SECONDS)


def look(root: str | None) -> Seen:
    """What the device shows of its hardware now.

    :param root: folder in which hardware is looked for, too.
    """
    return read(host.get_fact(Hardware, root=root, _timeout=FACT_SECONDS))


@operation()
def detected(kind: str, root: str | None = None) -> Iterator[StringCommand]:
    """
    Fail unless the device has an accelerator of a kind.

    + kind: of accelerator
    + root: folder in which hardware is looked for, too

    **Example:**

    .. code:: python

        detected(name="hardware", kind="hailo")
    """
    reason = missing(kind, look(root))
    if reason:
        yield refusal(reason)
    else:
        host.noop(f"the device has {kind}")


def repository_files(repositories: Sequence[AptRepository]) -> list[File]:
    """Sources of apt with their keys, each trusted for its own repository alone."""
    files = []
    for repository in repositories:
        key = f"/etc/apt/keyrings/muster-{repository.name}.asc"
        text = Path(repository.key).expanduser().read_text(encoding="ascii")
        files.append(File(key, text.rstrip("\n") + "\n"))
        lines = ["Types: deb", f"URIs: {repository.uri}", f"Suites: {repository.suite}"]
        if repository.components:
            lines.append(f"Components: {' '.join(repository.components)}")
        source = "\n".join([*lines, f"Signed-By: {key}"]) + "\n"
        files.append(File(f"/etc/apt/sources.list.d/muster-{repository.name}.sources", source))
    return files


@operation()
def pinned_packages(
    packages: dict[str, str | None], together: bool = False, hold: Sequence[str] = ()
) -> Iterator[StringCommand]:
    """
    Install Debian packages in certain versions, in one step, and hold them there.

    + packages: names to versions; None for any, a version may end with ``*``
    + together: all of them must be of one version
    + hold: further packages that are held where they are installed: those that come along

    **Example:**

    .. code:: python

        pinned_packages(name="packages", packages={"hailo-all": "4.20.0"}, hold=["hailort"])
    """
    names = list(packages)
    everything = sorted({*names, *hold})
    found = host.get_fact(PackageVersions, packages=everything, _timeout=FACT_SECONDS)
    wrong = [name for name in names if not _fits(packages[name], found.get(name))]
    versions = {found[name]["version"] for name in names if name in found}
    if together and len(versions) > 1:
        wrong = names
    if not wrong and all(package["held"] for package in found.values()):
        host.noop("all packages are installed and held")
        return
    words = [name if packages[name] is None else f"{name}={packages[name]}" for name in wrong]
    steps = [_INSTALL, _MARK.format(names=" ".join(quote(name) for name in everything))]
    if words:
        quoted = " ".join(quote(word) for word in words)
        steps.append(_CHANGE.format(words=quoted))
    steps.append("mark hold || exit")
    if together:
        steps.append(_ALIKE.format(names=" ".join(quote(name) for name in names)))
    shown = [QuoteString(word) for word in words or names]
    script = "\n".join(steps) + "\n"
    yield StringCommand("sh", "-s", "install", *shown, _stdin=script, _timeout=_INSTALL_SECONDS)


_MARK = """mark() {{
	dpkg-query --show --showformat='${{db:Status-Status}} ${{Package}}\\n' {names} 2>/dev/null |
		sed -n 's/^installed //p' | xargs --no-run-if-empty apt-mark "$1" >/dev/null
}}"""
# apt does not change held packages that come along, whatever it is told on its command line.
_CHANGE = """mark unhold
(install_packages --allow-downgrades {words} </dev/null) || {{
	status=$?
	mark hold
	exit $status
}}"""
_ALIKE = """found=$(dpkg-query --show --showformat='${{Version}}\\n' {names} | sort -u)
[ "$(printf '%s\\n' "$found" | wc -l)" -eq 1 ] || {{
	echo "expected one version of {names}, got" $found "- give versions to them" >&2
	exit 1
}}"""


def _fits(wanted: str | None, found: Mapping[str, Any] | None) -> bool:
    if found is None or wanted is None:
        return found is not None
    if wanted.endswith("*"):
        return str(found["version"]).startswith(wanted[:-1])
    return bool(found["version"] == wanted)


@operation()
def cdi_devices(kind: str, root: str | None = None) -> Iterator[StringCommand]:
    """
    Let container runtimes that know CDI give the accelerator to containers.

    + kind: of accelerator
    + root: folder in which hardware is looked for, too
    """
    seen = look(root)
    files = [
        File(cdi.path(name), cdi.specification(name, found.nodes))
        for found in find(kind, seen)
        if found.nodes and (name := cdi.NAMES.get((kind, found.make)))
    ]
    if not files:
        host.noop("no device node for CDI")
        return
    yield from place_files._inner(files=files)


@operation()
def generated_cdi(mode: str, path: str) -> Iterator[StringCommand]:
    """
    Have NVIDIA's tool write the CDI specification, if it would be another one than is there.

    + mode: of the tool: ``auto``, ``nvml``, ``csv`` ...
    + path: of the specification, in JSON
    """
    found = host.get_fact(GeneratedCdi, mode=mode, path=path, _timeout=FACT_SECONDS)
    current = found.get("wanted") and found.get("wanted") == found.get("present")
    if current and "other" not in found:
        host.noop("the CDI specification is as it should be")
        return
    folder, name = path.rsplit("/", 1)
    new = f"{folder}/.{name}.muster-new"
    other = path.removesuffix(".json") + ".yaml"
    # Two files with the same devices would make them ambiguous.
    script = f"""set -u
umask 022
mkdir -p {folder} && made=$(nvidia-ctk cdi generate --format=json --mode={quote(mode)}) &&
	[ -n "$made" ] && printf '%s\\n' "$made" >{quote(new)} && sync {quote(new)} &&
	mv -f -T {quote(new)} {quote(path)} && rm -f {quote(other)} && sync {folder}
"""
    yield StringCommand(
        "sh", "-s", "generate-cdi", QuoteString(path), _stdin=script, _timeout=FACT_SECONDS
    )


def published(
    kind: str, found: Sequence[Found], state: Mapping[str, Any], test: str, problems: Sequence[str]
) -> str:
    """Render what is known of an accelerator."""
    first = found[0] if found else Found(kind, kind)
    versions: dict[str, Any] = {part: state["versions"].get(part) for part in (*PARTS, "toolkit")}
    document = {
        "kind": kind,
        "model": first.model,
        **versions,
        "driver": first.driver or None,
        "devices": [node for each in found for node in each.nodes],
        "smoke_test": {"command": test, "passed": state["status"] == 0},
        "problems": list(problems),
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def problems_of(
    kind: str, found: Sequence[Found], state: Mapping[str, Any], test: str
) -> list[str]:
    """What keeps an accelerator from being used; empty when it works."""
    problems = [
        f"{each.model} has no device node: its driver is not loaded, restart the device if it was"
        " installed just now"
        for each in found
        if not each.nodes and each.make != "usb" and kind != "cpu"
    ]
    for each in found:
        text = mismatch(kind, {**state["versions"], "driver": each.driver})
        problems += [text] if text else []
    status = state["status"]
    if status == 124:
        problems.append(f"the smoke test `{test}` took too long")
    elif status:
        said = "; ".join(state["said"]) or "it said nothing"
        problems.append(f"the smoke test `{test}` failed ({state['status']}): {said}")
    return problems


@operation()
def working(kind: str, test: str, seconds: int, root: str | None = None) -> Iterator[StringCommand]:
    """
    Run the smoke test, write down what is known of the accelerator, and fail if it does not work.

    + kind: of accelerator
    + test: shell command that fails unless the accelerator works
    + seconds: bound of the test
    + root: folder in which hardware is looked for, too
    """
    bound = seconds + FACT_SECONDS
    found = find(kind, look(root))
    state = host.get_fact(AcceleratorState, kind=kind, test=test, seconds=seconds, _timeout=bound)
    problems = problems_of(kind, found, state, test)
    yield from place_files._inner(
        files=[File(PUBLISHED, published(kind, found, state, test, problems))]
    )
    if problems:
        yield refusal("\n".join(problems))
