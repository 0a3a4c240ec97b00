"""Writing into an inventory that people wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.enrolment.inventory_file import InventoryFile, hosts_file
from muster.errors import InputError

TEXT = """\
# What this is.
---
all:
  vars:
    ansible_user: ops  # everywhere
    ansible_ssh_private_key_file: "{{ inventory_dir }}/key"
  children:
    site_a:
      hosts:
        a1:  # the first
          ansible_host: 10.0.0.1
          muster_facts:
            accelerators: [coral]
            host_key: SHA256:x  # by hand

    # Kinds of hardware.
    hw_coral:
      hosts:
        a1:
        cam-[01:12]:
    # Nothing here yet.
    hw_cpu:
      hosts: {}
    # The end.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yml").write_text(TEXT)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "site_a.yml").write_text("ansible_user: siteuser\nport: '{{ x }}'\n")
    return tmp_path


def test_a_new_device_goes_where_it_belongs_and_comments_stay(folder: Path) -> None:
    file = InventoryFile(folder)
    facts = {"accelerators": ["coral"], "host_key": "SHA256:y"}
    assert file.put("site_a", "a2", {"ansible_host": "10.0.0.2", "muster_facts": facts})
    assert file.put("hw_coral", "a2")
    assert file.put("hw_cpu", "a3")
    assert file.put("line_x", "a2")
    file.save()
    assert (folder / "hosts.yml").read_text() == TEXT.replace(
        "  # by hand\n",
        """  # by hand
        a2:
          ansible_host: 10.0.0.2
          muster_facts:
            accelerators: [coral]
            host_key: SHA256:y
""",
    ).replace("        cam-[01:12]:\n", "        cam-[01:12]:\n        a2:\n").replace(
        "      hosts: {}\n    # The end.\n",
        "      hosts:\n        a3:\n    line_x:\n      hosts:\n        a2:\n    # The end.\n",
    )


def test_writing_the_same_again_changes_nothing(folder: Path) -> None:
    for expected in (True, False):
        file = InventoryFile(folder)
        file.put("site_a", "a2", {"ansible_host": "10.0.0.2", "muster_facts": {"arch": "arm64"}})
        file.put("hw_cpu", "a2")
        assert file.changed is expected
        file.save()


def test_a_device_that_is_there_is_updated(folder: Path) -> None:
    file = InventoryFile(folder)
    assert file.put("site_a", "a1", {"ansible_host": "10.0.0.9", "muster_facts": {"arch": "arm64"}})
    text = file.text()
    assert "ansible_host: 10.0.0.9" in text
    assert "accelerators" not in text
    assert "a1:  # the first" in text
    assert file.put("hw_coral", "a1", {"note": "x"})
    assert "        a1:\n          note: x\n" in file.text()


def test_variables_of_a_site_as_far_as_plain_files_tell(folder: Path) -> None:
    file = InventoryFile(folder)
    assert file.sites() == ["site_a"]
    assert file.variable("ansible_user") == "ops"
    assert file.variable("ansible_user", "site_a") == "siteuser"
    assert file.variable("ansible_ssh_private_key_file") == f"{folder}/key"
    assert file.variable("port", "site_a") is None  # a template of its own


def test_a_file_that_somebody_changed_meanwhile_is_left_alone(folder: Path) -> None:
    file = InventoryFile(folder)
    file.put("site_a", "a2")
    (folder / "hosts.yml").write_text(TEXT + "# more\n")
    with pytest.raises(InputError, match="changed in the meantime"):
        file.save()
    assert (folder / "hosts.yml").read_text() == TEXT + "# more\n"


def test_its_rights_stay_and_nothing_is_left_behind(folder: Path) -> None:
    (folder / "hosts.yml").chmod(0o640)
    file = InventoryFile(folder)
    file.put("site_a", "a2")
    file.save()
    assert (folder / "hosts.yml").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in folder.iterdir()) == ["group_vars", "hosts.yml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n", "group all"),
        ("", "group all"),
        ("x: 1\n", "group all"),
    ],
)
def test_what_is_no_inventory(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "hosts.yml").write_text(text)
    with pytest.raises(InputError, match=expected):
        InventoryFile(tmp_path)


def test_which_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="muster site new"):
        hosts_file(tmp_path)
    with pytest.raises(InputError, match="there is none"):
        hosts_file(tmp_path / "missing")
    (tmp_path / "hosts.ini").write_text("a\n")
    with pytest.raises(InputError, match="in YAML"):
        hosts_file(tmp_path / "hosts.ini")
    (tmp_path / "inventory.yml").touch()
    assert hosts_file(tmp_path) == tmp_path / "inventory.yml"
    assert hosts_file(tmp_path / "inventory.yml") == tmp_path / "inventory.yml"


def test_vault_values_and_styles_survive(tmp_path: Path) -> None:
    text = (
        "all:\n  vars:\n    secret: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      6162\n"
        "    quoted: 'yes'\n    list:\n      - a\n      - b\n  children:\n    site_a:\n"
        "      hosts: {}\n"
    )
    (tmp_path / "hosts.yml").write_text(text)
    file = InventoryFile(tmp_path)
    file.put("site_a", "a1")
    assert file.text() == text.replace("hosts: {}", "hosts:\n        a1:")


def test_a_device_that_is_removed_takes_no_comment_of_others_along(folder: Path) -> None:
    file = InventoryFile(folder)
    assert file.remove("a1")
    assert not file.remove("a1")
    assert not file.remove("cam-03")  # it is part of a range
    text = file.text()
    assert "a1" not in text
    for comment in ("# Kinds of hardware.", "# Nothing here yet.", "# The end."):
        assert comment in text
    assert "      hosts:\n\n    # Kinds of hardware.\n    hw_coral:\n" in text
    file.put("site_a", "a2")
    file.put("hw_coral", "a2")
    assert file.remove("a2")
    assert file.text() == text
