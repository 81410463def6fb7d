"""Whether a contact may act for a patient: a Cedar policy over the facts of their link, deny by default.

The policy and its schema are package data (`policies/`), read and checked against each other once, at import: a policy
that does not fit its schema stops the process with a ValueError. Answers are cached by their facts, which are few.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

import cedarpy

from app.domain.facts import GuardianLink
from app.domain.reasons import Reason
from app.domain.states import SENSITIVE

ACTIONS: Final = frozenset(str(t) for t in SENSITIVE)
"""Actions that the policy knows; every other one is denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianAnswer:
    """The answer, why, and the ids of the policies that gave it (empty: no policy permits it)."""

    allowed: bool
    reason: str
    policy_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardianPolicy:
    """A parsed policy set with its schema, and its policies' own ids by Cedar's internal ones."""

    policies: "cedarpy.PolicySet"
    schema: "cedarpy.Schema"
    ids: dict[str, str]

    @classmethod
    def parse(cls, policy_text: str, schema_text: str) -> "GuardianPolicy":
        """Parse and validate; raises ValueError naming what is wrong."""
        checked = cedarpy.validate_policies(policy_text, schema_text)
        if not checked.validation_passed:
            raise ValueError("the guardian policy does not fit its schema: " + "; ".join(str(e) for e in checked.errors))
        static = json.loads(cedarpy.policies_to_json_str(policy_text))["staticPolicies"]
        ids = {internal: policy["annotations"]["id"] for internal, policy in static.items()}
        return cls(cedarpy.PolicySet.from_str(policy_text), cedarpy.Schema.from_str(schema_text), ids)

    def ask(self, action: str, link: GuardianLink | None) -> GuardianAnswer:
        """Evaluate one request; only Cedar's exact Allow allows."""
        context = {}
        if link is not None:
            context["link"] = {
                "can_schedule": link.can_schedule,
                "can_cancel": link.can_cancel,
                "verified": link.verified,
                "revoked": link.revoked,
            }
        # the facts alone decide, so principal and resource need no identity here
        request = {
            "principal": {"type": "Contact", "id": "contact"},
            "action": {"type": "Action", "id": action},
            "resource": {"type": "Patient", "id": "patient"},
            "context": context,
        }
        answer = cedarpy.is_authorized(request, self.policies, [], schema=self.schema)
        ids = tuple(sorted(self.ids[p] for p in answer.diagnostics.reasons))
        allowed = answer.decision is cedarpy.Decision.Allow
        return GuardianAnswer(allowed=allowed, reason=_reason(allowed, action, ids), policy_ids=ids)


def may(action: str, link: GuardianLink | None) -> GuardianAnswer:
    """Whether the contact behind `link` may do `action` (`schedule`, `reschedule`, `cancel`); None = no link."""
    return _cached(str(action), link)


@lru_cache(maxsize=1024)
def _cached(action: str, link: GuardianLink | None) -> GuardianAnswer:
    return POLICY.ask(action, link)


_REASON_OF_POLICY: Final = {
    "link-required": Reason.NO_GUARDIAN_LINK,
    "link-revoked": Reason.GUARDIAN_REVOKED,
    "link-must-be-verified": Reason.GUARDIAN_NOT_VERIFIED,
}
"""What a forbid means, the weightiest first."""


def _reason(allowed: bool, action: str, ids: tuple[str, ...]) -> str:
    if allowed:
        return Reason.PERMISSION_GRANTED
    if action not in ACTIONS:
        return Reason.ACTION_NOT_ALLOWED
    return next((reason for policy, reason in _REASON_OF_POLICY.items() if policy in ids), Reason.PERMISSION_MISSING)


def policy_text() -> str:
    """The policy as written, for people who ask why."""
    return _read("guardian.cedar")


def _read(name: str) -> str:
    return resources.files("app.domain").joinpath("policies", name).read_text(encoding="utf-8")


POLICY: Final = GuardianPolicy.parse(policy_text(), _read("guardian.cedarschema"))
