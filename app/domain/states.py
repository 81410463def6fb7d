"""Exact state names of the contract (section 5). They appear in the database, the API, the logs and evidence packs."""

from enum import StrEnum


class State(StrEnum):
    """Status of a command or message, and the terminal result of a command."""

    # S-PC-01-001
    QUEUED_FOR_DISPATCH = "queued_for_dispatch"
    BLOCKED_COMMIT_ORDER_VIOLATION = "blocked_commit_order_violation"
    INVALID_PAYLOAD_MANUAL = "invalid_payload_manual"
    DEAD_LETTER = "dead_letter"
    # S-PC-01-002
    COMMITTED_CAUSAL = "committed_causal"
    WAITING_PREVIOUS_COMMIT = "waiting_previous_commit"
    BLOCKED_CONFLICT = "blocked_conflict"
    MANUAL_REVIEW_REQUIRED = "manual_review_required"
    # S-PC-01-003
    APPLIED_ONCE = "applied_once"
    DUPLICATE_IGNORED = "duplicate_ignored"
    VERSION_CONFLICT_BLOCKED = "version_conflict_blocked"
    # S-PC-02-*
    TTL_VALID_READY_FOR_REPLAY = "ttl_valid_ready_for_replay"
    EXPIRED_MANUAL = "expired_manual"
    INVALID_EVENT_MANUAL = "invalid_event_manual"
    VERSION_MATCH_READY_FOR_REPLAY = "version_match_ready_for_replay"
    CONFLICT_BLOCKED = "conflict_blocked"
    REPLAYED = "replayed"
    # guard results of the gate itself
    BLOCKED_GUARDIAN_DENIED = "blocked_guardian_denied"
    BLOCKED_UNCONFIRMED = "blocked_unconfirmed"
    BLOCKED_TAKEOVER_ACTIVE = "blocked_takeover_active"
    BLOCKED_AGENDA_CONFLICT = "blocked_agenda_conflict"
    PENDING_SAFE_MODE = "pending_safe_mode"
    PENDING_CONTINGENCY = "pending_contingency"
    # S-PC-05-001
    LOCK_ACQUIRE_FAILED_SAFE_BLOCK = "lock_acquire_failed_safe_block"
    # messages (F-01): read, triaged and handed on; see docs/decisions/0004
    PROCESSED = "processed"


PENDING = frozenset(
    {
        State.QUEUED_FOR_DISPATCH,
        State.WAITING_PREVIOUS_COMMIT,
        State.PENDING_SAFE_MODE,
        State.PENDING_CONTINGENCY,
        State.LOCK_ACQUIRE_FAILED_SAFE_BLOCK,
    }
)
"""States in which an accepted item still waits; every other stored status is terminal."""

PARKED = frozenset({State.PENDING_SAFE_MODE, State.PENDING_CONTINGENCY})
"""Pending states in which a command holds its place in the lane and with it everything behind it."""

EFFECT_RESULTS = frozenset({State.APPLIED_ONCE, State.REPLAYED})
"""Terminal results with which a side effect happened."""


class CommandType(StrEnum):
    """What a command asks for."""

    SCHEDULE = "schedule"
    RESCHEDULE = "reschedule"
    CANCEL = "cancel"
    D1_CONFIRMATION = "d1_confirmation"
    FOLLOW_UP = "follow_up"
    TAKEOVER = "takeover"


SENSITIVE = frozenset({CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL})
"""Command types with an agenda side effect; safe mode and contingency block these."""

ENTITY_BOUND = frozenset({CommandType.RESCHEDULE, CommandType.CANCEL, CommandType.D1_CONFIRMATION})
"""Command types that name an existing appointment and so need its `entity_version`."""


class PriorityClass(StrEnum):
    """Dispatch priority, high to low. It says which lane is served next, nothing else."""

    URGENT_TAKEOVER = "urgent_takeover"
    CONFIRMATION_RESCHEDULE = "confirmation_reschedule"
    NEW_LEAD = "new_lead"
    FOLLOW_UP = "follow_up"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return _RANK[self]


_RANK = {c: i for i, c in enumerate(PriorityClass)}
PRIORITY_BY_RANK: tuple[PriorityClass, ...] = tuple(PriorityClass)

PRIORITY_OF_COMMAND = {
    CommandType.TAKEOVER: PriorityClass.URGENT_TAKEOVER,
    CommandType.D1_CONFIRMATION: PriorityClass.CONFIRMATION_RESCHEDULE,
    CommandType.RESCHEDULE: PriorityClass.CONFIRMATION_RESCHEDULE,
    CommandType.CANCEL: PriorityClass.CONFIRMATION_RESCHEDULE,
    CommandType.SCHEDULE: PriorityClass.NEW_LEAD,
    CommandType.FOLLOW_UP: PriorityClass.FOLLOW_UP,
}


class RequestedBy(StrEnum):
    """Who decided the command."""

    AI = "ai"
    HUMAN = "human"
    SYSTEM = "system"


class Source(StrEnum):
    """Where an event came from."""

    WHATSAPP = "whatsapp"
    SYSTEM = "system"
    REPLAY = "replay"


class AppointmentStatus(StrEnum):
    """State of an agenda entity; `cancelled` frees the slot."""

    SCHEDULED = "scheduled"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


class ModeState(StrEnum):
    """State of one scope's safe mode (contract section 8, shapes in api.md)."""

    NORMAL = "normal"
    SAFE_MODE_ACTIVE = "safe_mode_active"
    RECOVERING = "recovering"
    DRAINING = "draining"


class LockResult(StrEnum):
    """Outcome of acquiring a lane's lock (S-PC-05-001)."""

    LOCK_ACQUIRED_PRIMARY = "lock_acquired_primary"
    LOCK_ACQUIRED_FALLBACK = "lock_acquired_fallback"
    LOCK_ACQUIRE_FAILED_SAFE_BLOCK = "lock_acquire_failed_safe_block"
