"""Messages of alerts taken up with a lease: one for each storm and recipient, no target more than it can bear.

The newest attempt speaks, and everything else of its storm that is due there is `merged` into it, be it an older resend that
downtime ate or another alert. A step that an ACK has stopped cannot be claimed, and one that was claimed before is looked at
once more right before it leaves (`still_wanted`). A sender that vanished loses its lease and the step is sent again: alerts are
at least once, and their text says which attempt it is.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select, text, update

from app.domain.alerts import Action
from app.store.alert_ladder import LATE_AFTER
from app.store.alert_voices import DueStep, cover, speak_again, spoken_for, with_alert
from app.store.bulk import insert_rows
from app.store.tables import AckToken, Alert, AlertStep, Tenant, table

_ALERT, _STEP, _TOKEN, _TENANT = table(Alert), table(AlertStep), table(AckToken), table(Tenant)

TOKEN_LIFETIME: Final = timedelta(hours=12)
_LOOKED_AT: Final = 5_000
"""Due steps that one claim looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One message to send now."""

    step: Row[Any]
    alert: Row[Any]
    clinic: str | None
    others: int
    """Further open alerts that it speaks for."""
    clinics: int
    """Of how many clinics all of them are."""
    token: str
    """Of the lease."""
    ack_token: str
    """For the link: known to this message only."""
    target: str
    """Where it really goes (a channel spec, with its secrets): clinics that share a phone share its room."""


def _free(now: datetime) -> ColumnElement[bool]:
    return and_(
        _STEP.c.action == Action.SEND,
        _STEP.c.done_at.is_(None),
        _STEP.c.due_at <= now,
        or_(_STEP.c.lease_until.is_(None), _STEP.c.lease_until <= now),
    )


def claim_due(
    conn: Connection,
    *,
    now: datetime,
    lease_until: datetime,
    lease_token: str,
    room: int,
    busy: Mapping[str, int],
    per_target: int,
    mint: Callable[[], tuple[str, str]],
) -> list[Claimed]:
    """Take up to `room` messages that are due; `mint` makes (ACK token, its hash).

    No target gets more than `per_target` at a time (`busy` says how many are on their way there), so that one that hangs
    takes no room from the others.
    """
    if conn.dialect.name == "postgresql":  # nodes take turns: two of them would give one storm two voices
        conn.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('alert-claims', 0))"))
    speak_again(conn)
    due = conn.execute(with_alert().where(_free(now)).order_by(_STEP.c.due_at, _STEP.c.step_id).limit(_LOOKED_AT)).all()
    heads: dict[tuple[str, ...], list[DueStep]] = {}
    for one in cover(conn, due, now):
        heads.setdefault((one.group_id, *one.key), []).append(one)
    turns = Counter[str]()
    waiting: list[tuple[int, int, list[DueStep]]] = []
    for order, steps in enumerate(heads.values()):
        target = steps[0].key.target
        turns[target] += 1
        if turns[target] + busy.get(target, 0) <= per_target:
            waiting.append((turns[target], order, steps))
    claimed = []
    for _, _, steps in sorted(waiting, key=lambda w: w[:2])[:room]:
        taken = _claim(conn, steps, now=now, lease_until=lease_until, lease_token=lease_token, mint=mint)
        if taken is not None:
            claimed.append(taken)
    return claimed


def _claim(
    conn: Connection,
    steps: list[DueStep],
    *,
    now: datetime,
    lease_until: datetime,
    lease_token: str,
    mint: Callable[[], tuple[str, str]],
) -> Claimed | None:
    """Claim the newest attempt of a storm at a recipient and merge the others into it; None when an ACK was faster."""
    newest, *others = sorted((s.row for s in steps), key=lambda r: (-r.n, r.raised_at, r.alert_id, r.step_id))
    won = conn.execute(
        update(_STEP)
        .where(_STEP.c.step_id == newest.step_id, _free(now))
        .values(lease_token=lease_token, lease_until=lease_until, begun_at=now, tries=_STEP.c.tries + 1)
    )
    if won.rowcount != 1:
        return None
    if others:
        conn.execute(
            update(_STEP)
            .where(_STEP.c.step_id.in_([o.step_id for o in others]), _free(now))
            .values(done_at=now, outcome="merged", merged_into=newest.step_id, late=_STEP.c.due_at < now - LATE_AFTER)
        )
    return _claimed(conn, newest.step_id, steps[0].key.target, lease_token, mint, now)


def _claimed(
    conn: Connection, step_id: str, target: str, lease_token: str, mint: Callable[[], tuple[str, str]], now: datetime
) -> Claimed:
    step = conn.execute(select(_STEP).where(_STEP.c.step_id == step_id)).one()
    alert = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == step.alert_id)).one()
    others = conn.execute(spoken_for(step, alert, now)).all()
    clinic = conn.execute(select(_TENANT.c.name).where(_TENANT.c.tenant_id == alert.tenant_id)).scalar()
    ack_token, token_hash = mint()
    row = {
        "token_hash": token_hash,
        "alert_id": alert.alert_id,
        "step_id": step.step_id,
        "recipient": step.recipient,
        "created_at": now,
        "expires_at": now + TOKEN_LIFETIME,
    }
    insert_rows(conn, _TOKEN, [row])
    return Claimed(
        step=step,
        alert=alert,
        clinic=clinic,
        others=len(others),
        clinics=len({alert.scope, *(o.scope for o in others)}),
        token=lease_token,
        ack_token=ack_token,
        target=target,
    )


def still_wanted(conn: Connection, step_id: str, lease_token: str) -> bool:
    """Whether a claimed message may leave: nobody has acknowledged since, and the lease is still ours."""
    row = conn.execute(select(_STEP.c.done_at, _STEP.c.lease_token).where(_STEP.c.step_id == step_id)).one()
    return row.done_at is None and row.lease_token == lease_token
