"""How many alarms there are for each person who could take them on (ISA-18.2, EEMUA 191: about one in ten minutes)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, or_, select

from app.store.tables import Alert, UserAccount, UserTenant, WebSession, table
from app.store.views.alerts import visible
from app.store.views.scope import Scope, within

_ALERT, _SESSION, _USER, _MEMBER = table(Alert), table(WebSession), table(UserAccount), table(UserTenant)

WINDOW: Final = timedelta(minutes=10)
LIMIT: Final = 1.0
"""Alarms per person in the window that people can answer with care; more than ten are a flood."""


@dataclass(frozen=True, slots=True)
class AlarmLoad:
    """Storms of the last ten minutes (alerts of one group are one alarm), and people of the console who were there."""

    alarms: int
    people: int

    @property
    def per_person(self) -> float:
        """With nobody there, the alarms are one person's."""
        return self.alarms / max(1, self.people)

    @property
    def over(self) -> bool:
        """Whether there are more than people can answer with care."""
        return self.per_person > LIMIT


def alarm_load(conn: Connection, scope: Scope, now: datetime) -> AlarmLoad:
    """Alarms in the scope, and who takes alerts on there: managers of its clinics and superadmins seen in the window."""
    since = now - WINDOW
    alarms = select(func.count(_ALERT.c.group_id.distinct())).where(visible(scope), _ALERT.c.raised_at > since)
    works_here = select(_MEMBER.c.user_id).where(within(_MEMBER.c.tenant_id, scope))
    takes_on = or_(_USER.c.role == "superadmin", (_USER.c.role == "manager") & _USER.c.user_id.in_(works_here))
    people = (
        select(func.count(_USER.c.user_id.distinct()))
        .join(_SESSION, _SESSION.c.user_id == _USER.c.user_id)
        .where(_SESSION.c.seen_at > since, _SESSION.c.expires_at > now, _USER.c.disabled_at.is_(None), takes_on)
    )
    return AlarmLoad(int(conn.execute(alarms).scalar_one()), int(conn.execute(people).scalar_one()))
