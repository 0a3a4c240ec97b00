"""The commands by which a person steers a rollout that a controller drives, or that waits."""

from __future__ import annotations

import json

import click

from muster.commands.driving import Driving, driving_options
from muster.commands.options import journal_option, json_option
from muster.errors import InputError, MusterError
from muster.rollout import controller
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import RolloutState, WaveState
from muster.rollout.records import RequestKind, RolloutRecord

R, W, K = RolloutState, WaveState, RequestKind


def _printable(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """What may be stored and shown to others: no bytes that are no text, and no escapes."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


reason_option = click.option(
    "-r",
    "--reason",
    default="",
    metavar="TEXT",
    callback=_printable,
    help="Why, for the journal and for others.",
)
rollout_argument = click.argument("rollout_id", metavar="[ROLLOUT]", required=False)


@click.command()
@rollout_argument
@reason_option
@journal_option
@json_option
def approve(rollout_id: str | None, reason: str, journal_url: str | None, as_json: bool) -> None:
    """Let the wave begin for which ROLLOUT waits.

    Without ROLLOUT the newest unfinished one. A controller that waits (`--wait`) goes on by itself;
    else `muster resume` does.
    """
    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        if record.state is not R.AWAITING_APPROVAL:
            raise MusterError(f"rollout {record.id} waits for no approval: it is {_told(record)}")
        waiting = [w.index for w in journal.load(record.id).waves if w.state is W.AWAITING_APPROVAL]
        _ask(journal, record, K.APPROVE, reason, as_json, next(iter(waiting), None))


@click.command()
@rollout_argument
@reason_option
@journal_option
@json_option
def pause(rollout_id: str | None, reason: str, journal_url: str | None, as_json: bool) -> None:
    """Let ROLLOUT start nothing new, and pause when the devices under way have come to rest.

    Without ROLLOUT the newest unfinished one. `muster resume` goes on.
    """
    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        if journal.lease_owner(record.id) is None:
            raise MusterError(
                f"rollout {record.id} is {_told(record)}, and nobody drives it: there is nothing"
                " to pause"
            )
        _ask(journal, record, K.PAUSE, reason, as_json)


@click.command()
@rollout_argument
@reason_option
@journal_option
@driving_options
def reject(rollout_id: str | None, reason: str, journal_url: str | None, driving: Driving) -> int:
    """End ROLLOUT, which waits for approval; the waves that have passed stay.

    Without ROLLOUT the newest unfinished one. Exit code 1, as of every rollout that was ended; 0
    where another controller drives it and was asked to.
    """
    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        if record.state is not R.AWAITING_APPROVAL:
            raise MusterError(f"rollout {record.id} waits for no approval: it is {_told(record)}")
        return _end(journal, record, K.REJECT, reason, driving)


@click.command()
@rollout_argument
@click.option("--roll-back", is_flag=True, help="Take every device back that has the release.")
@reason_option
@journal_option
@driving_options
def abort(
    rollout_id: str | None,
    roll_back: bool,
    reason: str,
    journal_url: str | None,
    driving: Driving,
) -> int:
    """End ROLLOUT: devices under way come to rest, nothing new begins.

    Without ROLLOUT the newest unfinished one. Exit code 1; 3 when devices went back; 0 where
    another controller drives it and was asked to.
    """
    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        kind = K.ROLL_BACK if roll_back else K.ABORT
        return _end(journal, record, kind, reason, driving)


def _end(
    journal: Journal, record: RolloutRecord, kind: RequestKind, reason: str, driving: Driving
) -> int:
    """Have whoever drives a rollout end it; where nobody does, end it here."""
    if journal.lease_owner(record.id) is not None:
        _ask(journal, record, kind, reason, driving.as_json)
        return 0
    from muster.commands.retire import forget, is_retirement  # which needs more than this module

    inventory = controller.load_devices(record)
    journal.ask(record.id, kind, reason)
    try:
        with controller.connected_fleet(inventory.devices, known=inventory.known) as fleet:
            code = driving.run(journal, journal.load(record.id), fleet, inventory)
            if is_retirement(controller.work_of(record)):
                forget(journal.load(record.id).rollout, journal, fleet, inventory)
            return code
    except InputError:  # nothing was touched: a later resume must not end it
        for request in journal.requests(record.id):
            if request.kind is kind:
                journal.handled(request)
        raise


def _ask(
    journal: Journal,
    record: RolloutRecord,
    kind: RequestKind,
    reason: str,
    as_json: bool,
    wave: int | None = None,
) -> None:
    journal.ask(record.id, kind, reason, wave)
    owner = journal.lease_owner(record.id)
    if as_json:
        click.echo(json.dumps({"rollout": record.id, "asked": kind.value, "driven_by": owner}))
    elif owner is not None:
        click.echo(f"asked {owner} to {kind.value.replace('_', ' ')} rollout {record.id}")
    else:
        click.echo(f"noted; to go on: muster resume {record.id}")


def _told(record: RolloutRecord) -> str:
    return record.state.value.replace("_", " ")
