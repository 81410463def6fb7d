"""Results of commands for the clinic's own systems: one webhook delivery each, written in the transaction of the result.

The body names what was asked and how it ended: ids, states, codes and times, never a name, a number or a family's words.
Where it goes is looked up when it is sent (`app.engine.channel_book`), so a corrected address helps what still waits.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from app.domain.states import EFFECT_RESULTS, State
from app.store.outbox import outbox_row
from app.store.settings import load

RESULTS: Final = "results"
"""Channel of these deliveries: the clinic's `webhook_url`, signed with its `webhook_secret`."""

KEPT: Final = timedelta(days=7)
"""How long a result waits for a system that is away; then it is given up, with one alert. `GET /commands/{id}` still tells it."""


def wants_results(document: Mapping[str, Any]) -> bool:
    """Whether a loaded settings document names a webhook for results."""
    return bool(document.get("webhook_url"))


def result_row(facts: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The outbox row of one terminal result.

    `facts` is a row of `ledger`, or of `command` for one that got no place (`commit_order` None). The delivery has no contact,
    so that no message to a family waits behind another system.
    """
    result = facts["result"]
    document = {
        "type": "command.result",
        **{name: facts[name] for name in ("tenant_id", "contact_id", "command_id", "command_type", "commit_order")},
        "status": State.COMMITTED_CAUSAL if result in EFFECT_RESULTS else result,
        **{name: facts[name] for name in ("result", "reason", "correlation_id")},
        "decided_at": now,
    }
    return outbox_row(
        tenant_id=facts["tenant_id"],
        cause_id=facts["command_id"],
        step="result",
        kind="webhook",
        body={"channel": RESULTS, "document": document},
        correlation_id=facts["correlation_id"],
        now=now,
        not_after=now + KEPT,
    )


def results_at_acceptance(conn: Connection, commands: Sequence[Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Rows for commands that ended while they were accepted, of the clinics that want to hear of it."""
    wanted = {t for t in {row["tenant_id"] for row in commands} if wants_results(load(conn, t))}
    return [result_row(row, now) for row in commands if row["tenant_id"] in wanted]
