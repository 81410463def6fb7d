"""Every part of a screen that is updated alone, declared once: id, template block, address, topics, context, loader.

A fragment is a named block inside its page's template, filled from one dataclass. *State* fragments carry counters and modes,
no personal data; they are rendered once per audience and travel on the stream. *Row* fragments have people in them; the
browser fetches their page's address again with `HX-Target`, under the viewer's own permissions, and gets the block alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from app.web.console import (
    access,
    account,
    agenda,
    alerts,
    audit,
    banner,
    channels,
    contacts,
    deferred,
    drills,
    evidence,
    family_texts,
    guardians,
    known,
    lane,
    lane_acts,
    lane_ask,
    manual,
    overview,
    phone,
    queue,
    replay,
    safe_mode,
    safe_story,
    settings,
    shift,
    signals,
    stories,
    takeovers,
    tickets,
)
from app.web.console.visit import Viewer, Visit
from app.web.i18n import environment, mark

C = TypeVar("C")

TOPICS: Final = frozenset(
    {
        "queue",
        "lane",
        "manual",
        "tickets",
        "safe_mode",
        "settings",
        "guardians",
        "agenda",
        "overview",
        "alerts",
        "replay",
        "health",
        "evidence",
        "signals",
        "deferred",
        "drills",
    }
)
"""Topics of the event log that screens listen to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A block that can be rendered alone; the element around it carries the id."""

    id: str
    template: str
    label: str
    """What people call it, a message id: announcements begin with it."""
    topics: frozenset[str]
    context: type
    load: Callable[[Connection, Any], Any]
    """Takes a `Viewer` (state) or a `Visit` (rows)."""
    state: bool = False
    every_s: float = 1.0
    """Rows are fetched at most this often."""


def _state(id: str, template: str, label: str, topics: str, context: type[C], load: Callable[[Connection, Viewer], C]) -> Fragment:
    return Fragment(id=id, template=template, label=label, topics=frozenset(topics.split()), context=context, load=load, state=True)


def _rows(
    id: str,
    template: str,
    label: str,
    topics: str,
    context: type[C],
    load: Callable[[Connection, Visit], C],
    *,
    every_s: float = 1.0,
) -> Fragment:
    return Fragment(
        id=id, template=template, label=label, topics=frozenset(topics.split()), context=context, load=load, every_s=every_s
    )


FRAGMENTS: Final[Mapping[str, Fragment]] = {
    f.id: f
    for f in (
        _state("banner", "base.html", mark("Situation"), "queue safe_mode settings overview", banner.Banner, banner.load_banner),
        _rows(
            "signal_rows",
            "signals.html",
            mark("Signals"),
            "signals settings",
            signals.SignalRows,
            signals.load_signal_rows,
            every_s=5,
        ),
        _rows(
            "signal_detail",
            "signals.html",
            mark("Chosen signal"),
            "signals settings",
            signals.SignalDetail,
            signals.load_signal_detail,
            every_s=5,
        ),
        _state("alert_count", "base.html", mark("Alerts"), "alerts", alerts.AlertCount, alerts.load_alert_count),
        _rows("alert_rows", "alerts.html", mark("Alerts"), "alerts", alerts.AlertRows, alerts.load_alert_rows),
        _rows("alert_detail", "alerts.html", mark("Chosen alert"), "alerts", alerts.AlertDetail, alerts.load_alert_detail),
        _rows("channel_rows", "channels.html", mark("Targets"), "settings", channels.ChannelRows, channels.load_channel_rows),
        _rows("routing_rows", "channels.html", mark("Routing"), "settings", channels.RoutingRows, channels.load_routing_rows),
        _rows("access_rows", "access.html", mark("Users and keys"), "", access.AccessRows, access.load_access_rows),
        _rows("access_detail", "access.html", mark("Chosen"), "", access.AccessDetail, access.load_access_detail),
        _rows(
            "settings_form",
            "settings.html",
            mark("Settings"),
            "settings",
            settings.SettingsForm,
            settings.load_settings_form,
        ),
        _rows(
            "settings_history",
            "settings.html",
            mark("Versions"),
            "settings",
            settings.SettingsHistory,
            settings.load_settings_history,
        ),
        _rows("shift_report", "shift.html", mark("Shift handover"), "", shift.ShiftReport, shift.load_shift_report),
        _rows("account", "account.html", mark("My account"), "", account.Account, account.load_account),
        _state("manual_count", "base.html", mark("Manual review"), "manual", manual.ManualCount, manual.load_manual_count),
        _rows("manual_rows", "manual.html", mark("Tasks"), "manual tickets", manual.ManualRows, manual.load_manual_rows, every_s=2),
        _rows("manual_detail", "manual.html", mark("Task"), "manual lane", manual.ManualDetail, manual.load_manual_detail),
        _state("takeover_count", "base.html", mark("Takeovers"), "tickets", takeovers.TakeoverCount, takeovers.load_takeover_count),
        _rows(
            "takeover_rows",
            "takeovers.html",
            mark("Conversations"),
            "tickets",
            takeovers.TakeoverRows,
            takeovers.load_takeover_rows,
        ),
        _rows(
            "takeover_detail",
            "takeovers.html",
            mark("Conversation"),
            "tickets lane",
            takeovers.TakeoverDetail,
            takeovers.load_takeover_detail,
        ),
        _rows("ticket_rows", "tickets.html", mark("Critical tickets"), "tickets", tickets.TicketRows, tickets.load_ticket_rows),
        _rows(
            "ticket_detail",
            "tickets.html",
            mark("Chosen ticket"),
            "tickets safe_mode queue alerts",
            tickets.TicketDetail,
            tickets.load_ticket_detail,
            every_s=2,
        ),
        _state("queue_count", "base.html", mark("Queue"), "queue", banner.QueueCount, banner.load_queue_count),
        _state("lock_mode", "base.html", mark("Locks"), "overview queue", overview.LockMode, overview.load_lock_mode),
        _state(
            "numbers", "overview.html", mark("Numbers"), "queue manual tickets alerts", overview.NumberCards, overview.load_numbers
        ),
        _rows("needs", "overview.html", mark("Needs you now"), "queue manual tickets alerts", overview.Needs, overview.load_needs),
        _rows("flow", "overview.html", mark("Flow"), "queue", overview.FlowPanel, overview.load_flow, every_s=10),
        _rows(
            "signals_off",
            "overview.html",
            mark("Signals"),
            "signals",
            signals.SignalsOff,
            signals.load_signals_off,
            every_s=5,
        ),
        _rows("nodes", "overview.html", mark("Processes"), "overview queue", overview.Nodes, overview.load_nodes, every_s=10),
        _rows("queue_filters", "queue.html", mark("Filters"), "", queue.QueueFilters, queue.load_queue_filters),
        _rows("queue_rows", "queue.html", mark("Queue"), "queue", queue.QueueRows, queue.load_queue_rows),
        _rows("contact_rows", "contacts.html", mark("Contacts"), "lane", contacts.ContactRows, contacts.load_contact_rows),
        _rows("lane_summary", "lane.html", mark("Why it waits"), "lane guardians agenda", lane.LaneSummary, lane.load_lane_summary),
        _rows(
            "lane_ask", "lane.html", mark("Change of the agenda"), "lane agenda safe_mode", lane_ask.LaneAsk, lane_ask.load_lane_ask
        ),
        _rows("lane_known", "lane.html", mark("What was known at a moment"), "", known.LaneKnown, known.load_lane_known),
        _rows("lane_acts", "lane.html", mark("Acts"), "lane", lane_acts.LaneActs, lane_acts.load_lane_acts),
        _rows("queue_holds", "queue.html", mark("Pauses"), "queue", lane_acts.QueueHolds, lane_acts.load_queue_holds),
        _rows("lane_timeline", "lane.html", mark("Timeline"), "lane", lane.LaneTimeline, lane.load_lane_timeline),
        _rows(
            "replay_channels",
            "replay.html",
            mark("Channels"),
            "safe_mode replay",
            replay.ReplayChannels,
            replay.load_replay_channels,
        ),
        _rows(
            "replay_backlog",
            "replay.html",
            mark("What waits"),
            "queue replay safe_mode",
            replay.ReplayBacklog,
            replay.load_replay_backlog,
            every_s=2,
        ),
        _rows("replay_form", "replay.html", mark("New dry run"), "", replay.ReplayForm, replay.load_replay_form),
        _rows("replay_plan", "replay.html", mark("Replay"), "replay", replay.ReplayPlan, replay.load_replay_plan),
        _rows("agenda_rows", "agenda.html", mark("Agenda"), "agenda queue", agenda.AgendaRows, agenda.load_agenda_rows, every_s=2),
        _rows(
            "agenda_act",
            "agenda.html",
            mark("Change of the agenda"),
            "agenda queue safe_mode",
            agenda.AgendaAct,
            agenda.load_agenda_act,
        ),
        _rows(
            "deferred_item",
            "deferred.html",
            mark("Deferred risk"),
            "deferred alerts signals",
            deferred.DeferredRisk,
            deferred.load_deferred,
            every_s=5,
        ),
        _rows("drill_now", "drills.html", mark("Drills"), "drills", drills.DrillNow, drills.load_drill_now),
        _rows("story_rows", "stories.html", mark("Stories"), "", stories.StoryRows, stories.load_story_rows),
        _rows(
            "evidence_rows",
            "evidence.html",
            mark("Packs"),
            "evidence",
            evidence.EvidenceRows,
            evidence.load_evidence_rows,
            every_s=2,
        ),
        _rows("evidence_form", "evidence.html", mark("New pack"), "", evidence.EvidenceForm, evidence.load_evidence_form),
        _rows("audit_rows", "audit.html", mark("Audit"), "", audit.AuditRows, audit.load_audit_rows),
        _rows(
            "guardian_patients",
            "guardians.html",
            mark("Patients"),
            "guardians",
            guardians.GuardianPatients,
            guardians.load_guardian_patients,
            every_s=5,
        ),
        _rows(
            "guardian_links",
            "guardians.html",
            mark("Permissions"),
            "guardians",
            guardians.GuardianLinks,
            guardians.load_guardian_links,
        ),
        _rows(
            "guardian_answer",
            "guardians.html",
            mark("The policy's answer"),
            "guardians",
            guardians.GuardianAnswerBox,
            guardians.load_guardian_answer,
        ),
        _rows(
            "guardian_history",
            "guardians.html",
            mark("History"),
            "guardians",
            guardians.GuardianHistory,
            guardians.load_guardian_history,
        ),
        _rows("phone_chats", "phone.html", mark("Phones"), "lane", phone.PhoneChats, phone.load_phone_chats, every_s=2),
        _rows("phone_chat", "phone.html", mark("Conversation"), "lane", phone.PhoneChat, phone.load_phone_chat),
        _rows("lane_facts", "lane.html", mark("Versions"), "lane guardians agenda", lane.LaneFacts, lane.load_lane_facts),
        _rows(
            "safe_now",
            "safe_mode.html",
            mark("Safe mode"),
            "safe_mode alerts queue health",
            safe_mode.SafeNow,
            safe_mode.load_safe_now,
            every_s=2,
        ),
        _rows(
            "safe_window",
            "safe_mode.html",
            mark("Ten green minutes"),
            "safe_mode health",
            safe_mode.SafeWindow,
            safe_mode.load_safe_window,
            every_s=2,
        ),
        _rows("safe_forms", "safe_mode.html", mark("What to do"), "safe_mode", safe_mode.SafeForms, safe_mode.load_safe_forms),
        _rows(
            "safe_texts",
            "safe_mode.html",
            mark("What families read meanwhile"),
            "settings",
            family_texts.SafeTexts,
            family_texts.load_safe_texts,
        ),
        _rows(
            "safe_past", "safe_mode.html", mark("Episodes"), "safe_mode", safe_story.SafePast, safe_story.load_safe_past, every_s=5
        ),
    )
}
"""All of them by id."""

FRAME: Final = ("banner", "queue_count", "manual_count", "takeover_count", "alert_count", "lock_mode")
"""State fragments of every page."""

STATE: Final = tuple(f for f in FRAGMENTS.values() if f.state)


def load_all(conn: Connection, visit: Viewer, ids: Iterable[str]) -> dict[str, Any]:
    """Contexts of some fragments, read in one transaction."""
    return {name: FRAGMENTS[name].load(conn, visit) for name in ids}


def render_block(locale: str, fragment: Fragment, context: Mapping[str, Any]) -> str:
    """The fragment alone."""
    template = environment(locale).get_template(fragment.template)
    return "".join(template.blocks[fragment.id](template.new_context(dict(context))))
