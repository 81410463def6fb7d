"""Our guards, each taken away on purpose: a simulation that does not notice is not worth running.

Some guards stand behind another wall (a unique key behind a compare-and-set); the mutant then takes both away, and the
test beside it shows that one of them alone is still enough.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Table

from app.domain.delivery import OutboxStatus
from app.store import bulk, holds, inbox, ledger, messages, outbox
from app.store.tables import Appointment, AppointmentVersion, InboxCommand, Lane, Ledger, Outbox, table
from tests.simulation import world

_LANE, _COMMAND, _LEDGER, _OUTBOX = table(Lane), table(InboxCommand), table(Ledger), table(Outbox)
_APPOINTMENT, _VERSION = table(Appointment), table(AppointmentVersion)


@contextmanager
def _unguarded(module: Any, *tables: Table) -> Iterator[None]:
    """`update_rows` of one module, and an update in a bundle, without its WHERE, for these tables."""

    def update_rows(conn: Connection, target: Table, rows: Any, *, guard: str = "", **kwargs: Any) -> Any:
        return bulk.update_rows(conn, target, rows, guard="" if target in tables else guard, **kwargs)

    with patch.object(module, "update_rows", update_rows), _bundled("update", tables, guard=""):
        yield


@contextmanager
def _forgiving(*tables: Table) -> Iterator[None]:
    """`insert_rows` of the ledger, and an insert in a bundle, as if these tables had no unique key."""

    def insert_rows(conn: Connection, target: Table, rows: Any, *, ignore_conflicts: bool = False, **kwargs: Any) -> None:
        bulk.insert_rows(conn, target, rows, ignore_conflicts=ignore_conflicts or target in tables, **kwargs)

    with patch.object(ledger, "insert_rows", insert_rows), _bundled("insert", tables, ignore_conflicts=True):
        yield


def _bundled(method: str, tables: tuple[Table, ...], **instead: Any) -> Any:
    """A bundle's method with other arguments for these tables."""
    honest = getattr(bulk.Bundle, method)

    def changed(bundle: bulk.Bundle, target: Table, rows: Any, **kwargs: Any) -> None:
        honest(bundle, target, rows, **(kwargs | instead if target in tables else kwargs))

    return patch.object(bulk.Bundle, method, changed)


@contextmanager
def no_compare_and_set() -> Iterator[None]:
    """`last_committed`, the versions and the takeover of a lane are not compared at the commit."""
    with _unguarded(ledger, _LANE):
        yield


@contextmanager
def no_walls_around_the_order() -> Iterator[None]:
    """Neither the lane's compare-and-set, nor the command's, nor the ledger's key."""
    with _unguarded(ledger, _LANE, _COMMAND), _forgiving(_LEDGER):
        yield


@contextmanager
def no_walls_at_the_boundary() -> Iterator[None]:
    """Nothing in the effect's transaction stops a plan that somebody else has applied already."""
    with (
        _unguarded(ledger, _LANE, _COMMAND, _APPOINTMENT),
        _forgiving(_LEDGER, _APPOINTMENT, _VERSION),
        patch.object(ledger, "_refuse_overlaps", lambda conn, writes: None),
    ):
        yield


@contextmanager
def modes_not_read_again() -> Iterator[None]:
    """A decision made before contingency, safe mode or a person's hold began is applied after it."""
    with patch.object(ledger, "_still_allowed", lambda plan, mode, now: True):
        yield


@contextmanager
def holds_not_seen_at_the_commit() -> Iterator[None]:
    """A person's hold does not raise the epoch of its clinic's mode."""
    with patch.object(holds, "_raise_epoch", lambda conn, mode: None):
        yield


@contextmanager
def pauses_not_seen_at_the_commit() -> Iterator[None]:
    """A decision made before a lane was paused is applied after it."""

    def update_rows(conn: Connection, target: Table, rows: Any, *, guard: str = "", **kwargs: Any) -> Any:
        return bulk.update_rows(conn, target, rows, guard=guard.replace(ledger.SAME_PAUSE, "true"), **kwargs)

    with patch.object(ledger, "update_rows", update_rows):
        yield


@contextmanager
def overlaps_not_checked() -> Iterator[None]:
    """Two lanes may book one therapist at the same time."""
    with patch.object(ledger, "_refuse_overlaps", lambda conn, writes: None):
        yield


@contextmanager
def messages_heard_by_anyone() -> Iterator[None]:
    """Two nodes may hear the same message."""
    with _unguarded(messages, _LANE):
        yield


@contextmanager
def deliveries_claimed_by_anyone() -> Iterator[None]:
    """Two nodes may send the same message."""
    with _unguarded(outbox, _OUTBOX):
        yield


@contextmanager
def lost_leases_sent_again() -> Iterator[None]:
    """A message that may have reached the family is sent again."""
    with patch.object(outbox, "_after_lease", lambda kind, attempts, attempts_max: OutboxStatus.PENDING):
        yield


@contextmanager
def answered_before_durable() -> Iterator[None]:
    """Intake answers first and stores afterwards."""
    honest = world.SimDatabase.write

    async def write(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if fn is not inbox.accept:
            return await honest(self, fn, *args, **kwargs)
        receipts = self._node.world.store.foresee(fn, *args, **kwargs)
        self._node.tasks.append(asyncio.ensure_future(honest(self, fn, *args, **kwargs)))
        return receipts

    with patch.object(world.SimDatabase, "write", write):
        yield


@contextmanager
def repeated_commands_not_known() -> Iterator[None]:
    """The same command sent again is not recognised."""
    with patch.object(inbox, "known_commands", lambda conn, submissions: {}):
        yield


MUTANTS = {
    mutant.__name__: mutant
    for mutant in (
        no_compare_and_set,
        no_walls_around_the_order,
        modes_not_read_again,
        overlaps_not_checked,
        messages_heard_by_anyone,
        deliveries_claimed_by_anyone,
        lost_leases_sent_again,
        answered_before_durable,
        repeated_commands_not_known,
    )
}
"""By name."""
SELDOM = {mutant.__name__: mutant for mutant in (holds_not_seen_at_the_commit, pauses_not_seen_at_the_commit)}
"""Guards that few worlds need (dozens until one is missed): for the command line; tests/store/test_ledger.py shows each at once."""


@contextmanager
def sabotage(*names: str) -> Iterator[None]:
    """These guards away, together."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context((MUTANTS | SELDOM)[name]())
        yield
