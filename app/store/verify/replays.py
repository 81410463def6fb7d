"""Checks over replay batches: every item of an ended batch has one terminal result, the one its command has, and its task."""

from collections.abc import Iterator

from sqlalchemy import Connection, and_, or_, select

from app.domain.replay_batch import RESULTS, BatchStatus, ItemState, item_result
from app.domain.states import State
from app.store.tables import InboxCommand, ManualTask, ReplayBatch, ReplayItem, table
from app.store.verify.violation import Violation, stream

_BATCH, _ITEM, _COMMAND, _TASK = table(ReplayBatch), table(ReplayItem), table(InboxCommand), table(ManualTask)


def replay_items_ended(conn: Connection) -> Iterator[Violation]:
    """A finished batch has no open item; a result is one of the four and what the command's own result says."""
    i, c = _ITEM.c, _COMMAND.c
    query = (
        select(
            i.tenant_id,
            i.replay_id,
            i.n,
            i.state,
            i.result,
            i.actual_state,
            i.commit_order,
            _BATCH.c.status,
            c.result.label("command_result"),
        )
        .join(_BATCH, _BATCH.c.replay_id == i.replay_id)
        .outerjoin(_COMMAND, and_(c.tenant_id == i.tenant_id, c.command_id == i.run_command_id))
        .where(or_(i.state == ItemState.DONE, _BATCH.c.status == BatchStatus.FINISHED))
    )
    for row in stream(conn, query):
        subject = f"replay {row.replay_id}/{row.n}"
        if row.state != ItemState.DONE:
            yield Violation("replay_open", row.tenant_id, subject, f"Its batch is finished, but it is {row.state}.")
        elif row.result not in RESULTS or row.actual_state is None or item_result(State(row.actual_state)) != row.result:
            yield Violation("replay_result", row.tenant_id, subject, f"It says {row.result} for {row.actual_state}.")
        elif row.commit_order is not None and row.command_result != row.actual_state:
            sentence = f"It says {row.actual_state}, its command says {row.command_result}."
            yield Violation("replay_result", row.tenant_id, subject, sentence)


def replay_items_have_their_task(conn: Connection) -> Iterator[Violation]:
    """Everything that was not replayed was given to a person: by its command, by the command it asked again, or by the batch."""
    i, t = _ITEM.c, _TASK.c
    told = or_(
        t.dedup_key == "command:" + i.run_command_id,
        t.dedup_key == "command:" + i.command_id,
        t.dedup_key == "replay:" + i.command_id,
    )
    query = select(i.tenant_id, i.replay_id, i.n, i.result).where(
        i.state == ItemState.DONE,
        i.result != State.REPLAYED,
        ~select(t.task_id).where(t.tenant_id == i.tenant_id, told).exists(),
    )
    for row in stream(conn, query):
        yield Violation(
            "task_missing", row.tenant_id, f"replay {row.replay_id}/{row.n}", f"It ended as {row.result} and nobody was told."
        )
