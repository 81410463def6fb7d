"""Safe mode's episodes, what caused them, their stories, the health that ends them, and what families were told."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from app.store.tables.base import BigId, doc, key, partial, when


class SafeEpisode(SQLModel, table=True):
    """One stay in safe mode of one scope (a tenant's id, or `global`): from its entry until everything parked has left.

    `mode` says what holds now; an episode says why, since when, and how far its exit has come. At most one of a scope is open.
    """

    __tablename__ = "safe_episode"
    __table_args__ = (partial("uq_safe_episode_open", "scope", where="ended_at IS NULL", unique=True),)
    episode_id: str = key(40)
    scope: str = Field(max_length=40, index=True)
    entered_at: datetime = when()
    """When safe mode began to hold: for an alert its deadline, which may lie before anybody wrote it down."""
    written_at: datetime = when()
    entered_by: str = Field(max_length=200)
    correlation_id: str = Field(max_length=220)
    reentries: int = 0
    rev: int = 0
    """Grows with everything that changes what a person has to do for the exit: recovery, ticks, causes."""
    recovery_action: str | None = Field(default=None, max_length=1000)
    runbook_step: str | None = Field(default=None, max_length=200)
    recovery_by: str | None = Field(default=None, max_length=200)
    recovery_at: datetime | None = when(default=None)
    checklist_json: str = doc(default="{}")
    green_since: datetime | None = when(default=None)
    last_at: datetime | None = when(default=None)
    """Newest sample that the green window has seen."""
    reset_at: datetime | None = when(default=None)
    reset_by: str | None = Field(default=None, max_length=200)
    reset_after_s: float | None = None
    exit_asked_at: datetime | None = when(default=None)
    exit_asked_by: str | None = Field(default=None, max_length=200)
    exit_result: str | None = Field(default=None, max_length=60)
    exit_reason: str | None = Field(default=None, max_length=500)
    draining_since: datetime | None = when(default=None)
    released_at: datetime | None = when(default=None)
    """When the drain last let lanes go."""
    released: int = 0
    """Lanes that the drain let go so far."""
    ended_at: datetime | None = when(default=None)


class SafeCause(SQLModel, table=True):
    """Why an episode is there: an alert nobody acknowledged in time, a superadmin's hand, or both stores down."""

    __tablename__ = "safe_cause"
    episode_id: str = key(40)
    cause_id: str = key(60)
    """The alert's id, or the kind with a number."""
    kind: str = Field(max_length=20)
    """alert | manual | stores_down."""
    summary: str = Field(max_length=500)
    at: datetime = when()
    by: str = Field(max_length=200)


class SafeStep(SQLModel, table=True):
    """One sentence of an episode's story, append-only."""

    __tablename__ = "safe_step"
    __table_args__ = ({"sqlite_autoincrement": True},)
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    episode_id: str = Field(max_length=40, index=True)
    at: datetime = when(index=True)
    kind: str = Field(max_length=30)
    actor: str = Field(max_length=200)
    detail: str | None = Field(default=None, max_length=1000)


class HealthSample(SQLModel, table=True):
    """One look of one node at the health of everything."""

    __tablename__ = "health_sample"
    __table_args__ = ({"sqlite_autoincrement": True},)
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    at: datetime = when(index=True)
    node_id: str = Field(max_length=60)
    green: bool
    checks_json: str = doc()
    """Name of the check -> {green, detail, ms}."""
    scopes_json: str = doc(default="{}")
    """Scope with an open episode -> what is red there alone (name of the check -> detail); `{}` = nothing.

    It takes the place of what the same checks say about everybody; a scope that is not named was not looked at by itself.
    """


class HealthProbe(SQLModel, table=True):
    """What a node writes to see that the database takes writes."""

    __tablename__ = "health_probe"
    node_id: str = key(60)
    at: datetime = when()


class ContingencyNotice(SQLModel, table=True):
    """What a family was told in an episode: once per contact and intent. The message itself is in the outbox."""

    __tablename__ = "contingency_notice"
    __table_args__ = (partial("ix_contingency_notice_open", "tenant_id", where="result IS NULL"),)
    tenant_id: str = key(40)
    episode_id: str = key(40)
    contact_id: str = key()
    intent: str = key(20)
    """schedule | reschedule | cancel | general."""
    at: datetime = when()
    outbox_id: str = Field(max_length=40)
    ticket_id: str | None = Field(default=None, max_length=40)
    template: str = Field(max_length=60)
    """Name and version of the text, such as `schedule/open v1`."""
    correlation_id: str = Field(max_length=220)
    result: str | None = Field(default=None, max_length=60)
    """Terminal state of S-PC-03-003; None while the message is on its way."""
    done_at: datetime | None = when(default=None, index=True)
