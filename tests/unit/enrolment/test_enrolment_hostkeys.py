"""Whom to believe about host keys, and how they are pinned."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from muster.enrolment.hostkeys import (
    HostKey,
    Judgement,
    Rules,
    Trust,
    host_entry,
    judge,
    pin,
    pinned_keys,
    read_fingerprints,
    revoked_keys,
    unpin,
)
from muster.errors import InputError

ONE, TWO = HostKey("ssh-ed25519", b"one"), HostKey("ssh-ed25519", b"two")
OLD = HostKey("ssh-rsa", b"old")


def trust(
    rules: Rules,
    pinned: tuple[HostKey, ...] = (),
    said: str | None = None,
    certified: str | None = None,
    revoked: tuple[HostKey, ...] = (),
) -> Judgement:
    return judge(
        ONE, pinned, ("10.0.0.1", "cam"), rules, said=said, certified=certified, revoked=revoked
    )


def test_the_fingerprint_is_that_of_openssh() -> None:
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIGFkN6xDU0kT1PIxzGe0VCWYX45Zccd/gioOqeXfv6av"
    key = HostKey("ssh-ed25519", base64.b64decode(blob))
    assert key.fingerprint == "SHA256:oLW43bQHce14M2QsLzs6WEDDSjRe1zW51JwxBcbNzIw"
    assert key.text == f"ssh-ed25519 {blob}"


def test_the_pinned_key_is_known_whatever_else_was_given() -> None:
    rules = Rules(authority=True, fingerprints={TWO.fingerprint: frozenset([""])})
    assert trust(rules, (OLD, ONE), certified="no certificate").trust is Trust.KNOWN


def test_a_new_key_is_never_taken_blindly() -> None:
    assert trust(Rules()).trust is Trust.ASK
    assert trust(Rules(accept_new=True)).trust is Trust.ACCEPTED


@pytest.mark.parametrize("rules", [Rules(), Rules(accept_new=True), Rules(authority=True)])
def test_a_changed_key_is_refused_whatever_else_was_given(rules: Rules) -> None:
    found = trust(rules, (TWO,), said=ONE.fingerprint, certified="")
    assert found.trust is Trust.REFUSED
    assert TWO.fingerprint in found.why
    assert ONE.fingerprint in found.why


def test_a_replaced_key_must_be_as_good_as_a_new_one() -> None:
    assert trust(Rules(replace=True), (TWO,)).trust is Trust.ASK
    found = trust(Rules(replace=True, accept_new=True), (TWO,))
    assert found == Judgement(Trust.ACCEPTED, "accepted unseen", TWO.fingerprint)


def test_a_list_of_fingerprints_decides_alone() -> None:
    listed = {ONE.fingerprint: frozenset([""])}
    assert trust(Rules(fingerprints=listed)).trust is Trust.ACCEPTED
    other = {TWO.fingerprint: frozenset([""])}
    assert trust(Rules(fingerprints=other, accept_new=True)).trust is Trust.REFUSED
    bound = {ONE.fingerprint: frozenset(["cam"])}
    assert trust(Rules(fingerprints=bound)).trust is Trust.ACCEPTED
    elsewhere = {ONE.fingerprint: frozenset(["10.0.0.2"])}
    assert "is that of 10.0.0.2" in trust(Rules(fingerprints=elsewhere)).why


def test_the_fingerprint_given_for_a_device_decides_first() -> None:
    assert trust(Rules(), said=ONE.fingerprint).trust is Trust.ACCEPTED
    assert trust(Rules(accept_new=True), said=TWO.fingerprint).trust is Trust.REFUSED


def test_a_host_ca_decides_alone() -> None:
    assert trust(Rules(authority=True), certified="").trust is Trust.ACCEPTED
    found = trust(Rules(authority=True, accept_new=True), certified="its certificate is odd")
    assert (found.trust, "is odd" in found.why) == (Trust.REFUSED, True)
    assert trust(Rules(authority=True), certified=None).trust is Trust.REFUSED


def test_a_revoked_key_is_refused_even_if_it_is_pinned() -> None:
    assert trust(Rules(accept_new=True), (ONE,), revoked=(ONE,)).trust is Trust.REFUSED


def test_reading_a_list_of_fingerprints() -> None:
    a, b = "SHA256:" + "a" * 43, "SHA256:" + "b" * 43
    text = f"# from the labels\n{a}\ncam-1 {b} # rack 1\n256 {b} root@raspberrypi (ED25519)\n\n"
    found = read_fingerprints(text, "list")
    assert found == {a: frozenset([""]), b: frozenset(["cam-1", ""])}
    with pytest.raises(InputError) as caught:
        read_fingerprints("MD5:aa\nSHA256:short\n", "list")
    assert [problem[:12] for problem in caught.value.problems] == ["list: line 1", "list: line 2"]
    with pytest.raises(InputError, match="at least one"):
        read_fingerprints("# none\n", "list")


def hashed(entry: str) -> str:
    digest = hmac.new(b"salt", entry.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(b'salt').decode()}|{base64.b64encode(digest).decode()}"


def test_looking_up_pinned_keys() -> None:
    text = "\n".join(
        [
            "# comment",
            f"cam,10.0.0.1 {ONE.text} note",
            f"[10.0.0.1]:2222 {TWO.text}",
            f"{hashed('10.0.0.9')} {TWO.text}",
            f"*.example,!bad.example {TWO.text}",
            f"@cert-authority * {OLD.text}",
            f"@revoked * {OLD.text}",
            "10.0.0.1 ssh-ed25519 not-base64!",
        ]
    )
    assert pinned_keys(text, "10.0.0.1") == [ONE]
    assert pinned_keys(text, host_entry("10.0.0.1", 2222)) == [TWO]
    assert pinned_keys(text, "10.0.0.9") == [TWO]
    assert pinned_keys(text, "good.example") == [TWO]
    assert pinned_keys(text, "bad.example") == []
    assert pinned_keys(text, "10.0.0.2") == []
    assert revoked_keys(text) == [OLD]


def test_pinning_leaves_everything_else() -> None:
    text = f"# ours\n10.0.0.1,jump {OLD.text} old\n10.0.0.2 {TWO.text}\n@revoked * {OLD.text}\n"
    found = pin(text, ["10.0.0.1"], ONE)
    assert found == (
        f"# ours\njump {OLD.text} old\n10.0.0.2 {TWO.text}\n@revoked * {OLD.text}\n"
        f"10.0.0.1 {ONE.text}\n"
    )
    assert pin(found, ["10.0.0.1"], ONE) is found
    assert pin("", ["a", "b"], ONE) == f"a,b {ONE.text}\n"
    assert pinned_keys(pin(f"{hashed('a')} {OLD.text}\n", ["a"], ONE), "a") == [ONE]


def test_forgetting_a_key_leaves_everything_else() -> None:
    text = f"# ours\n10.0.0.1,jump {OLD.text}\n10.0.0.2 {TWO.text}\n@revoked * {OLD.text}\n"
    found = unpin(text, ["10.0.0.1", "cam"])
    assert found == text.replace("10.0.0.1,jump", "jump")
    assert unpin(found, ["10.0.0.1", "cam"]) == found
