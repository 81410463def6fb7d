"""Reason codes of decisions and receipts: stable strings in the database, the API, the logs and the evidence packs.

The sentences that people read for them live in `reason_texts`.
"""

from dataclasses import dataclass
from enum import StrEnum

from app.domain.reason_texts import REASONS, STATES


class Reason(StrEnum):
    """Why an item ended, or waits, as it does. At most 60 characters; a code is never renamed, only added."""

    # it happened
    APPLIED = "applied"
    REPLAYED_WITHIN_FENCES = "replayed_within_fences"
    # intake
    NOT_AN_OBJECT = "not_an_object"
    BAD_FIELD = "bad_field"
    MISSING_CONTACT_ID = "missing_contact_id"
    NOT_STORABLE = "not_storable"
    COMMAND_ID_REUSED = "command_id_reused"
    QUEUE_OVERFLOW = "queue_overflow"
    ALREADY_ACCEPTED = "already_accepted"
    UNKNOWN_SHAPE = "unknown_shape"
    OTHER_NUMBER = "other_number"
    MISSING_MESSAGE_ID = "missing_message_id"
    MISSING_PHONE = "missing_phone"
    PROVIDER_ERROR = "provider_error"
    # shape of the event and of the payload (step 1)
    MISSING_TIMESTAMP = "missing_timestamp"
    MISSING_VERSION_METADATA = "missing_version_metadata"
    UNKNOWN_INTENT = "unknown_intent"
    MISSING_PATIENT = "missing_patient"
    MISSING_THERAPIST = "missing_therapist"
    MISSING_APPOINTMENT = "missing_appointment"
    BAD_IDENTIFIER = "bad_identifier"
    BAD_TIME = "bad_time"
    BAD_INTERVAL = "bad_interval"
    BAD_ANSWER = "bad_answer"
    BAD_TEXT = "bad_text"
    # idempotency (step 2)
    SAME_KEY_SAME_REQUEST = "same_key_same_request"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    # order in the lane (step 3, and acceptance)
    COMMIT_ORDER_PASSED = "commit_order_passed"
    COMMIT_ORDER_TAKEN = "commit_order_taken"
    COMMIT_ORDER_TOO_FAR = "commit_order_too_far"
    NO_PLACE_IN_LANE = "no_place_in_lane"
    PREVIOUS_MISSING = "previous_missing"
    PREVIOUS_WAITING = "previous_waiting"
    WAITED_TOO_LONG = "waited_too_long"
    PLACE_NEVER_FILLED = "place_never_filled"
    SKIPPED_BY_PERSON = "skipped_by_person"
    DAY_BEFORE_UNCONFIRMED = "day_before_unconfirmed"
    # parked (step 4)
    MODE_UNREADABLE = "mode_unreadable"
    SAFE_MODE_ACTIVE = "safe_mode_active"
    CONTINGENCY_ACTIVE = "contingency_active"
    BEHIND_PARKED = "behind_parked"
    WAITS_FOR_DRAIN = "waits_for_drain"
    FALLBACK_THROTTLED = "fallback_throttled"
    # replay fences (step 5)
    TTL_EXPIRED = "ttl_expired"
    TTL_VALID = "ttl_valid"
    VERSIONS_MATCH = "versions_match"
    AS_OF_STALE = "as_of_stale"
    # version guard (step 6, and the fences)
    CONVERSATION_VERSION_STALE = "conversation_version_stale"
    ENTITY_MISSING = "entity_missing"
    ENTITY_EXISTS = "entity_exists"
    ENTITY_VERSION_STALE = "entity_version_stale"
    ENTITY_NOT_ACTIVE = "entity_not_active"
    # takeover (step 7)
    TAKEOVER_ACTIVE = "takeover_active"
    TAKEOVER_ALREADY_ACTIVE = "takeover_already_active"
    # guardians (step 8)
    PATIENT_MISMATCH = "patient_mismatch"
    PATIENT_UNKNOWN = "patient_unknown"
    NO_GUARDIAN_LINK = "no_guardian_link"
    GUARDIAN_NOT_VERIFIED = "guardian_not_verified"
    GUARDIAN_REVOKED = "guardian_revoked"
    PERMISSION_GRANTED = "permission_granted"
    PERMISSION_MISSING = "permission_missing"
    ACTION_NOT_ALLOWED = "action_not_allowed"
    GUARDIAN_VERSION_STALE = "guardian_version_stale"
    # confirmation (step 9)
    NOT_CONFIRMED = "not_confirmed"
    # agenda (step 10)
    SLOT_TAKEN = "slot_taken"
    THERAPIST_UNKNOWN = "therapist_unknown"
    # deliveries that ended without having been sent
    DELIVERY_UNKNOWN = "delivery_unknown"
    DELIVERY_REFUSED = "delivery_refused"
    DELIVERY_GIVEN_UP = "delivery_given_up"
    DELIVERY_FAILED = "delivery_failed"
    TEMPLATE_REQUIRED = "template_required"
    CONTACT_WITHOUT_PHONE = "contact_without_phone"
    # replay batches
    REPLAY_STOPPED = "replay_stopped"
    REPLAY_CANCELLED = "replay_cancelled"
    # failures
    UNEXPECTED_FAILURE = "unexpected_failure"
    LOCKS_UNAVAILABLE = "locks_unavailable"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Two sentences for people: why, and the next valid action."""

    why: str
    next_action: str


def explain(state: str, reason: str | None = None, locale: str = "pt_BR") -> Explanation:
    """Sentences for a state and its reason; `locale` is `pt_BR` (also for any unknown locale) or `en`.

    Total: a reason without sentences of its own (an older or a provider's code) is explained by its state, and an
    unknown state as one that needs a person.
    """
    row = REASONS.get(reason or "") or STATES.get(state) or STATES["manual_review_required"]
    return Explanation(row[2], row[3]) if locale.startswith("en") else Explanation(row[0], row[1])
