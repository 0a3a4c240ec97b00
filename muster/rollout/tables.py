"""The tables of the journal."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

ROLLOUTS = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("release_id", sa.String(128), nullable=False),
    sa.Column("release_document", sa.Text, nullable=False),
    sa.Column("signature", sa.Text),
    sa.Column("strategy", sa.JSON, nullable=False),
    sa.Column("inventory", sa.Text, nullable=False),
    sa.Column("limit", sa.Text),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("controller", sa.String(255), nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("take_back", sa.String(32)),
)
WAVES = sa.Table(
    "waves",
    METADATA,
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("soak", sa.Float, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("accepted_failed", sa.Integer, nullable=False),
    sa.Column("accepted_unreachable", sa.Integer, nullable=False),
    sa.Column("approval", sa.String(255), nullable=False),
)
DEVICES = sa.Table(
    "devices",
    METADATA,
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("device", sa.String(255), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("wave", sa.Integer),
    sa.Column("variant", sa.String(64), nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("previous", sa.String(128)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("failed", sa.Boolean, nullable=False),
    sa.Column("unreachable", sa.Boolean, nullable=False),
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("device", sa.String(255), nullable=False),
    sa.Column("wave", sa.Integer),
    sa.Column("data", sa.JSON, nullable=False),
)
REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("who", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("wave", sa.Integer),
    sa.Column("handled", sa.Boolean, nullable=False),
)
LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("token", sa.String(40), primary_key=True),
    sa.Column("rollout", sa.String(40), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    # What process ids are unique in: host names may be the same in many containers.
    sa.Column("pid_space", sa.String(255), nullable=False),
    sa.Column("started", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)
LEASED_DEVICES = sa.Table(
    "leased_devices",
    METADATA,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(255), primary_key=True),
    sa.Column("token", sa.ForeignKey("leases.token"), nullable=False, index=True),
)
