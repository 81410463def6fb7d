"""The one registry of console pages: navigation, tabs, shortcuts and access all come from here.

A page that is not in the list does not exist for people; a role that is not named does not see it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.web.i18n import mark

SECRETARY, MANAGER, SUPERADMIN = "secretary", "manager", "superadmin"
EVERYONE: Final = (SECRETARY, MANAGER, SUPERADMIN)

GROUPS: Final[Mapping[str, str]] = {
    "operate": mark("Operate"),
    "respond": mark("Respond"),
    "prove": mark("Prove"),
    "configure": mark("Configure"),
}
"""Groups of the navigation, in order."""

ROLE_NAMES: Final[Mapping[str, str]] = {
    SECRETARY: mark("Secretary"),
    MANAGER: mark("Manager"),
    SUPERADMIN: mark("Superadmin"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One entry of the navigation; `label` and `short` (of the phone's tab) are message ids."""

    id: str
    label: str
    group: str
    url: str
    icon: str
    roles: tuple[str, ...] = EVERYONE
    key: str | None = None
    """Pressed after `g`."""
    short: str | None = None
    """Present = one of the phone's tabs."""
    count: str | None = None
    """Id of the state fragment that counts what waits there."""


PAGES: Final = (
    Page(id="overview", label=mark("Overview"), group="operate", url="/", icon="overview", key="v", short=mark("View")),
    Page(
        id="queue",
        label=mark("Queue"),
        group="operate",
        url="/queue",
        icon="queue",
        key="f",
        short=mark("Queue"),
        count="queue_count",
    ),
    Page(id="contacts", label=mark("Contacts"), group="operate", url="/contacts", icon="contacts", key="c", short=mark("Contacts")),
    Page(id="manual", label=mark("Manual review"), group="operate", url="/manual", icon="person", key="m", count="manual_count"),
    Page(
        id="takeovers", label=mark("Takeovers"), group="operate", url="/takeovers", icon="message", key="t", count="takeover_count"
    ),
    Page(id="agenda", label=mark("Agenda"), group="operate", url="/agenda", icon="clinic", key="d"),
    Page(id="shift", label=mark("Shift handover"), group="operate", url="/shift", icon="leave"),
    Page(
        id="alerts",
        label=mark("Alerts"),
        group="respond",
        url="/alerts",
        icon="alert",
        roles=(MANAGER, SUPERADMIN),
        key="a",
        short=mark("Alerts"),
    ),
    Page(
        id="safe_mode",
        label=mark("Safe mode"),
        group="respond",
        url="/safe-mode",
        icon="shield",
        roles=(MANAGER, SUPERADMIN),
        key="s",
    ),
    Page(
        id="replay",
        label=mark("Replay"),
        group="respond",
        url="/replay",
        icon="replay",
        roles=(MANAGER, SUPERADMIN),
        key="r",
    ),
    Page(id="evidence", label=mark("Evidence"), group="prove", url="/evidence", icon="lock", roles=(MANAGER, SUPERADMIN), key="e"),
    Page(id="drills", label=mark("Drills"), group="prove", url="/drills", icon="plug", roles=(SUPERADMIN,)),
    Page(id="deferred", label=mark("Deferred risk"), group="prove", url="/deferred", icon="gap", roles=(MANAGER, SUPERADMIN)),
    Page(id="stories", label=mark("Stories"), group="prove", url="/stories", icon="check", roles=(MANAGER, SUPERADMIN)),
    Page(id="audit", label=mark("Audit"), group="prove", url="/audit", icon="search", roles=(MANAGER, SUPERADMIN)),
    Page(id="guardians", label=mark("Guardians"), group="configure", url="/guardians", icon="person", key="u"),
    Page(
        id="signals",
        label=mark("Signals and rules"),
        group="configure",
        url="/signals",
        icon="signal",
        roles=(MANAGER, SUPERADMIN),
        key="i",
    ),
    Page(id="channels", label=mark("Channels"), group="configure", url="/channels", icon="plug", roles=(SUPERADMIN,)),
    Page(id="settings", label=mark("Settings"), group="configure", url="/settings", icon="signal", roles=(SUPERADMIN,)),
    Page(id="access", label=mark("Users and keys"), group="configure", url="/access", icon="lock", roles=(SUPERADMIN,)),
    Page(id="account", label=mark("My account"), group="configure", url="/account", icon="person"),
    Page(id="phone", label=mark("Simulated phone"), group="configure", url="/phone", icon="message"),
)

TABS_MAX: Final = 3
"""Tabs of the phone besides "More"."""


def page(page_id: str) -> Page | None:
    """A page by id; None while nobody has built it."""
    return next((p for p in PAGES if p.id == page_id), None)


def pages_of(role: str | None) -> tuple[Page, ...]:
    """What a role sees, in the order of the navigation."""
    order = list(GROUPS)
    return tuple(sorted((p for p in PAGES if role in p.roles), key=lambda p: order.index(p.group)))
