"""All tables (SQLModel), for SQLite and PostgreSQL alike.

Rows are read and written with SQLAlchemy Core statements on `Model.__table__`; no ORM objects travel on the hot path.
Documents are JSON text (`*_json`), written once and never queried inside. Ids are the caller's strings, unique per
tenant. Lanes, not commands, carry what dispatch needs, so a claim never scans the backlog.
"""

from app.store.tables.alerts import AckRecord, AckToken, Alert, AlertStep
from app.store.tables.base import metadata, table
from app.store.tables.clinic import Appointment, AppointmentVersion, Contact, Guardian, Lane, LaneLock, Patient, Therapist
from app.store.tables.clocks import SourceClock
from app.store.tables.contingency import ContingencyChannel, DrainRow, FailingDeliveries
from app.store.tables.d1 import D1StepRow
from app.store.tables.deferred import DeferredItem
from app.store.tables.drills import Drill
from app.store.tables.effects import DeliveryStatus, Ledger, ManualTask, Outbox, Ticket
from app.store.tables.evidence import EvidenceFile, EvidencePack, LogLine, SigningKey
from app.store.tables.inbox import InboxCommand, InboxMessage, MalformedItem, Proposal
from app.store.tables.people import ApiKey, SavedView, SettingsDoc, Tenant, UserAccount, UserTenant, WebSession
from app.store.tables.queue_alarm import QueueAlarm
from app.store.tables.replays import ReplayBatch, ReplayItem
from app.store.tables.retention import RetentionRound
from app.store.tables.safe_mode import ContingencyNotice, HealthProbe, HealthSample, SafeCause, SafeEpisode, SafeStep
from app.store.tables.signals import SignalCritical, SignalFiring, SignalMinute, SignalPoint, SignalRound, SignalStateRow
from app.store.tables.steering import AuditEntry, AuditHead, EventLog, Hold, ModeRow, Node, PhoneMessage, ScaledTime

__all__ = [
    "AckRecord",
    "AckToken",
    "Alert",
    "AlertStep",
    "ApiKey",
    "Appointment",
    "AppointmentVersion",
    "AuditEntry",
    "AuditHead",
    "Contact",
    "ContingencyChannel",
    "ContingencyNotice",
    "D1StepRow",
    "DeferredItem",
    "DeliveryStatus",
    "DrainRow",
    "Drill",
    "EventLog",
    "EvidenceFile",
    "EvidencePack",
    "FailingDeliveries",
    "Guardian",
    "HealthProbe",
    "HealthSample",
    "Hold",
    "InboxCommand",
    "InboxMessage",
    "Lane",
    "LaneLock",
    "Ledger",
    "LogLine",
    "MalformedItem",
    "ManualTask",
    "ModeRow",
    "Node",
    "Outbox",
    "Patient",
    "PhoneMessage",
    "Proposal",
    "QueueAlarm",
    "ReplayBatch",
    "ReplayItem",
    "RetentionRound",
    "SafeCause",
    "SafeEpisode",
    "SafeStep",
    "SavedView",
    "ScaledTime",
    "SettingsDoc",
    "SignalCritical",
    "SignalFiring",
    "SignalMinute",
    "SignalPoint",
    "SignalRound",
    "SignalStateRow",
    "SigningKey",
    "SourceClock",
    "Tenant",
    "Therapist",
    "Ticket",
    "UserAccount",
    "UserTenant",
    "WebSession",
    "metadata",
    "table",
]
