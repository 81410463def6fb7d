"""The versioned HTTP interface, `/api/v1`: thin handlers over the store and the intake."""

from typing import Any, Final

from app.web.api.alerts import alert_routes
from app.web.api.channels import channel_routes
from app.web.api.contingency import contingency_routes
from app.web.api.deferred import deferred_routes
from app.web.api.drills import drill_routes
from app.web.api.evidence import evidence_routes
from app.web.api.intake import intake_routes
from app.web.api.lane_acts import lane_act_routes
from app.web.api.manual import manual_routes
from app.web.api.people import people_routes
from app.web.api.replays import replay_routes
from app.web.api.safe_mode import safe_mode_routes
from app.web.api.signals import signal_routes
from app.web.api.state import state_routes
from app.web.api.stories import story_routes
from app.web.api.subjects import subject_routes
from app.web.api.takeovers import takeover_routes
from app.web.api.tickets import ticket_routes

api_routes: Final[list[Any]] = [
    *intake_routes,
    *people_routes,
    *subject_routes,
    *state_routes,
    *lane_act_routes,
    *manual_routes,
    *takeover_routes,
    *safe_mode_routes,
    *ticket_routes,
    *alert_routes,
    *channel_routes,
    *contingency_routes,
    *replay_routes,
    *signal_routes,
    *evidence_routes,
    *story_routes,
    *deferred_routes,
    *drill_routes,
]
"""Everything but the webhooks, which are mounted by themselves."""
