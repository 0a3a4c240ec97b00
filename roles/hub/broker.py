"""The broker's configuration: one document, with one owner, and the files that it names."""

from __future__ import annotations

import base64
import hashlib
import math

from roles.hub.variables import User, Variables
from roles.operations import File
from roles.secrets import chosen_secret, read_pem

CONFIGURATION = "/etc/mosquitto/mosquitto.conf"
FOLDER = "/etc/mosquitto/muster"
PASSWORDS, TOPICS = f"{FOLDER}/passwords", f"{FOLDER}/topics"
LISTENER_CERTIFICATE, LISTENER_KEY = f"{FOLDER}/listener.crt", f"{FOLDER}/listener.key"
CLIENT_CA, UPSTREAM_CA = f"{FOLDER}/client-ca.crt", f"{FOLDER}/upstream-ca.crt"
UPSTREAM_CERTIFICATE, UPSTREAM_KEY = f"{FOLDER}/upstream.crt", f"{FOLDER}/upstream.key"
OPTIONAL = (
    PASSWORDS, TOPICS, LISTENER_CERTIFICATE, LISTENER_KEY, CLIENT_CA, UPSTREAM_CA,
    UPSTREAM_CERTIFICATE, UPSTREAM_KEY,
)  # fmt: skip
"""Files that are there only when the configuration names them."""

_SYSTEM_CAS = "/etc/ssl/certs"
_ROUNDS = 10_000
_OWNER = "mosquitto:mosquitto"


def broker_files(variables: Variables, device: str) -> list[File]:
    """Give every file of the broker.

    The broker reads some of them after it has become the user ``mosquitto``, so that user owns
    them, and nobody else reads them.

    :param device: name of the device in the inventory.
    """
    found = {CONFIGURATION: configuration(variables, device)}
    if variables.hub_users:
        found[PASSWORDS] = _passwords(variables, device)
        found[TOPICS] = _topics(variables)
    copies = {
        LISTENER_CERTIFICATE: variables.hub_certificate,
        LISTENER_KEY: variables.hub_key,
        CLIENT_CA: variables.hub_client_ca,
        UPSTREAM_CA: variables.hub_upstream_ca,
        UPSTREAM_CERTIFICATE: variables.hub_upstream_certificate,
        UPSTREAM_KEY: variables.hub_upstream_key,
    }
    found |= {path: read_pem(file) for path, file in copies.items() if file is not None}
    return [File(path, content, "600", _OWNER) for path, content in found.items()]


def configuration(variables: Variables, device: str) -> str:
    """Render ``mosquitto.conf``."""
    anonymous = not variables.hub_users
    lines = [
        "# written by the role hub",
        "pid_file /run/mosquitto/mosquitto.pid",
        "log_dest stderr",
        "log_timestamp false",
        f"allow_anonymous {_word(anonymous)}",
    ]
    if variables.hub_users:
        lines += [f"password_file {PASSWORDS}", f"acl_file {TOPICS}"]
    lines += [
        "# what waits for a client that is away, and how it survives a power cut",
        "persistence true",
        "persistence_location /var/lib/mosquitto/",
        "autosave_on_changes true",
        f"autosave_interval {variables.hub_save_changes}",
        f"max_queued_messages {variables.hub_max_queued_messages}",
        f"max_queued_bytes {variables.hub_max_queued_size}",
        "max_inflight_messages 100",
        f"persistent_client_expiration {math.ceil(variables.hub_session_expiry / 3600)}h",
    ]
    for listener in variables.hub_listeners:
        lines += [f"listener {listener.port} {listener.address}"]
        if listener.tls:
            lines += [f"certfile {LISTENER_CERTIFICATE}", f"keyfile {LISTENER_KEY}"]
            lines += ["tls_version tlsv1.2"]
        if listener.client_certificates:
            lines += [f"cafile {CLIENT_CA}", "require_certificate true"]
            lines += ["use_identity_as_username true"]
    if variables.hub_upstream is not None:
        lines += _bridge(variables, device, variables.hub_upstream)
    return "\n".join(lines) + "\n"


def _bridge(variables: Variables, device: str, upstream: str) -> list[str]:
    lines = [
        "connection upstream",
        f"address {upstream}",
        f"remote_clientid {variables.hub_upstream_client_id or device}",
        "bridge_protocol_version mqttv311",
        "# both sides keep the session, else a restart of either loses what waits",
        "cleansession false",
        "local_cleansession false",
        f"keepalive_interval {max(5, math.ceil(variables.hub_keepalive))}",
        "restart_timeout 2 30",
        "# some brokers hang up on those who write below $SYS",
        "notifications_local_only true",
    ]
    if variables.hub_upstream_tls:
        if variables.hub_upstream_ca is not None:
            lines += [f"bridge_cafile {UPSTREAM_CA}"]
        else:
            lines += [f"bridge_capath {_SYSTEM_CAS}"]
        lines += ["bridge_tls_version tlsv1.2"]
    if variables.hub_upstream_certificate is not None:
        lines += [f"bridge_certfile {UPSTREAM_CERTIFICATE}", f"bridge_keyfile {UPSTREAM_KEY}"]
    password = chosen_secret(variables.hub_upstream_password, variables.hub_upstream_password_file)
    if password is not None:
        lines += [f"remote_username {variables.hub_upstream_user}", f"remote_password {password}"]
    prefix = variables.hub_upstream_prefix or '""'
    for direction, topics in (("out", variables.hub_topics_out), ("in", variables.hub_topics_in)):
        lines += [f'topic {topic} {direction} 1 "" {prefix}' for topic in topics]
    return lines


def _passwords(variables: Variables, device: str) -> str:
    lines = (
        f"{name}:{password_hash(_password(user), f'{device} {name}')}\n"
        for name, user in sorted(variables.hub_users.items())
    )
    return "".join(lines)


def _password(user: User) -> str:
    return chosen_secret(user.password, user.password_file) or ""


def password_hash(password: str, place: str) -> str:
    """Hash a password the way ``mosquitto_passwd`` does (PBKDF2, SHA-512).

    :param place: device and user. The salt is made from it and not by chance, so that a second run
        writes the same.
    """
    salt = hashlib.sha256(place.encode()).digest()[:12]
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def _topics(variables: Variables) -> str:
    lines = []
    for name, user in sorted(variables.hub_users.items()):
        lines.append(f"user {name}")
        lines += [f"topic read {topic}" for topic in user.read]
        lines += [f"topic write {topic}" for topic in user.write]
    return "\n".join(lines) + "\n"


def _word(value: bool) -> str:
    return "true" if value else "false"
