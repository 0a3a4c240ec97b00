"""What names a device on the command line and in a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.enrolment.targets import Target, read_targets
from muster.errors import InputError


def hosts(*words: str) -> list[str]:
    return [target.host for target in read_targets(words)]


def problems(*words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_targets(words)
    return caught.value.problems


@pytest.mark.parametrize(
    ("word", "target"),
    [
        ("10.0.0.10", Target("10.0.0.10")),
        ("cam-01.site.example", Target("cam-01.site.example")),
        ("ops@10.0.0.10:2222", Target("10.0.0.10", port=2222, user="ops")),
        ("cam-01=10.0.0.10", Target("10.0.0.10", name="cam-01")),
        ("cam-01=ops@[fe80::1]:2222", Target("fe80::1", name="cam-01", port=2222, user="ops")),
        ("fe80::1", Target("fe80::1")),
    ],
)
def test_one_device(word: str, target: Target) -> None:
    assert read_targets([word]) == (target,)


def test_ranges_and_networks_are_searched() -> None:
    assert hosts("10.0.0.9-11") == ["10.0.0.9", "10.0.0.10", "10.0.0.11"]
    assert hosts("10.0.0.254-10.0.1.1") == ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]
    assert hosts("10.0.0.0/30") == ["10.0.0.1", "10.0.0.2"]
    assert hosts("cam-[08:10].example") == ["cam-08.example", "cam-09.example", "cam-10.example"]
    assert all(target.searched for target in read_targets(["10.0.0.9-11", "10.0.0.0/30"]))
    assert not any(target.searched for target in read_targets(["cam-[08:10]"]))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("10.0.0.300", "expected a name, an address"),
        ("10.0.0.10-9", "goes up"),
        ("10.0.0.10-300", "up to 255"),
        ("10.0.0.0/8", "at most 1024"),
        ("10.0.0.1:99999", "port from 1 to 65535"),
        ("x=10.0.0.1-2", "expected one device after x="),
        ("no spaces=10.0.0.1", "before ="),
        ("-rf", "expected a name, an address"),
        ("a;b@10.0.0.1", "user's name before @"),
    ],
)
def test_typing_errors(word: str, expected: str) -> None:
    assert expected in "\n".join(problems(word))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("box:" + "9" * 5000, "expected a port"),
        ("cam-[1:" + "9" * 5000 + "]", "at most 18 digits"),
        ("box:\u0662\u0662", "expected a port"),
    ],
)
def test_numbers_that_are_none_or_endless(word: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_targets([word])


@pytest.mark.parametrize("name", ["all", "ungrouped", "site_yard", "hw_cpu"])
def test_a_device_is_not_called_like_a_group(tmp_path: Path, name: str) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(f"host,name\n10.0.0.1,{name}\n")
    for word in (f"{name}=10.0.0.1", str(file)):
        with pytest.raises(InputError, match=f"{name}: expected the name of a device"):
            read_targets([word])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host\n" + "a" * 200_000, "expected a CSV file"),
        ("host,port\n10.0.0.1," + "9" * 5000, "port: expected 1 to 65535"),
    ],
)
def test_a_file_with_endless_cells(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_targets([str(file)])


def test_every_mistake_is_told_at_once() -> None:
    assert len(problems("10.0.0.300", "10.0.0.2-1", "ok")) == 2


def test_one_device_given_in_two_ways_is_one() -> None:
    assert hosts("10.0.0.1", "10.0.0.1", "10.0.0.1-2").count("10.0.0.1") == 2  # joined later
    assert "different words" in problems("a=10.0.0.1", "b=10.0.0.1")[0]
    assert "given to 10.0.0.1 and to 10.0.0.2" in problems("a=10.0.0.1", "a=10.0.0.2")[0]


def test_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    fingerprint = "SHA256:" + "x" * 43
    path.write_text(
        "\ufeffhost, name, port, user, site, hardware, fingerprint, groups\n"
        "# the first rack\n"
        f"10.0.0.1, cam-1, 2222, ops, harbour, hw_coral, {fingerprint}, line_a line_b\n"
        "\n"
        "10.0.0.2,,,,,,,\n"
        "10.0.0.3\n",
        encoding="utf-8",
    )
    first, second, third = read_targets([str(path)])
    assert first == Target(
        "10.0.0.1", "cam-1", 2222, "ops", "site_harbour", "hw_coral", fingerprint,
        ("line_a", "line_b"),
    )  # fmt: skip
    assert (second, third) == (Target("10.0.0.2"), Target("10.0.0.3"))


def test_mistakes_in_a_csv_file_name_the_line_and_the_column(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("host,port,site\n10.0.0.1,0,\n10.0.0.999,22,Big Harbour\n,22,\n1.2.3.4,1,a,b\n")
    assert problems(str(path)) == [
        f"{path}: line 2: port: expected 1 to 65535, got '0'",
        f"{path}: line 3: host: expected a name or an address, got '10.0.0.999'",
        f"{path}: line 3: site: expected a name of small letters, digits and _, got 'Big Harbour'",
        f"{path}: line 4: host: expected a name or an address, got nothing",
        f"{path}: line 5: expected 3 columns, got 4",
    ]


def test_columns_are_checked_and_hold_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("hosts,password,nonsense,name,name\n")
    told = "\n".join(problems(str(path)))
    assert "unknown column 'hosts', did you mean host?" in told
    assert "no secrets in this file" in told
    assert "unknown column 'nonsense': expected host, name" in told
    assert "column 'name' is there more than once" in told
    assert "expected a column host" in told
    assert "can't be read" in problems(str(tmp_path / "missing.csv"))[0]
    path.write_text("# nothing\n")
    assert "got nothing" in problems(str(path))[0]
    path.write_text("host\n")
    assert "at least one device" in problems(str(path))[0]
