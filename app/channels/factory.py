"""From a channel's spec in the settings to the channel.

* `simulator:[target]`: the simulated phone
* `whatsapp:[+number]`: Cloud API with the tenant's credentials
* `evolution:[+number]`: Evolution API
* `uazapi:[+number]`: Uazapi
* `webhook:https://...`: a plain JSON webhook
* anything else: an apprise URL
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from app.channels.addresses import AllowList
from app.channels.evolution_sender import EvolutionChannel
from app.channels.http import Limits
from app.channels.outbound import Channel, PhoneWriter
from app.channels.simulator import SimulatorChannel
from app.channels.uazapi_sender import UazapiChannel
from app.channels.webhook import WebhookChannel
from app.channels.whatsapp_sender import CLOUD_API, WhatsAppCloudChannel
from app.domain.phones import e164

PROVIDERS: Final = ("whatsapp", "evolution", "uazapi")
"""Adapters that reach a family's WhatsApp, in the order in which a configured one becomes the tenant's default."""


class ChannelUnavailable(ValueError):
    """The spec cannot be turned into a channel; the message is a short code without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What channels of one process share."""

    client: httpx.AsyncClient
    phone: PhoneWriter
    allowed: AllowList = field(default_factory=AllowList)
    cloud_api: str = CLOUD_API
    limits: Limits = field(default_factory=Limits)


def channel_for(spec: str, credentials: Mapping[str, Any], world: World) -> Channel:
    """The channel behind `spec`; `credentials` is the tenant's settings document. Raises ChannelUnavailable."""
    scheme, _, rest = spec.strip().partition(":")
    scheme = scheme.lower()
    if scheme == "simulator":
        return SimulatorChannel(world.phone, target=rest.strip("/") or None)
    if scheme == "webhook":
        return WebhookChannel(world.client, rest, allowed=world.allowed, limits=world.limits)
    if scheme in PROVIDERS and not rest.startswith("//"):
        return _provider(scheme, _number(rest), credentials.get(scheme), world)
    from app.channels.apprise import AppriseChannel  # heavy: only where a tenant uses it

    try:
        return AppriseChannel(spec, allowed=world.allowed)
    except ValueError as error:
        raise ChannelUnavailable("bad_channel_url") from error


def results_channel(_spec: str, credentials: Mapping[str, Any], world: World) -> Channel:
    """The webhook that hears of results: `webhook_url`, signed with `webhook_secret`. Raises ChannelUnavailable."""
    url = _word(credentials, "webhook_url")
    if url is None:
        raise ChannelUnavailable("webhook_not_configured")
    secret = _word(credentials, "webhook_secret")
    return WebhookChannel(world.client, url, allowed=world.allowed, limits=world.limits, secret=secret)


def is_apprise(spec: str) -> bool:
    """Whether a spec is one of apprise's services, which take half a second to load once."""
    scheme, _, rest = spec.strip().partition(":")
    return scheme.lower() not in ("simulator", "webhook") and (scheme.lower() not in PROVIDERS or rest.startswith("//"))


def spec_fault(spec: str, world: World, *, to_families: bool = False) -> str | None:
    """What is wrong with the words of a channel, found by building it; None when it can be used. May take half a second.

    A provider whose credentials are missing is no fault of the words: they may come later, or be the clinic's own.
    """
    try:
        channel = channel_for(spec, _EVERY_CREDENTIAL, world)
    except ChannelUnavailable as error:
        return _SPEC_FAULTS[str(error)]
    if isinstance(channel, WebhookChannel) and not channel.can_be_called:
        return "must be webhook: and an address that begins with https:// or http://, without a password in it"
    if to_families and not channel.addressable:
        return "sends to one fixed target and cannot reach families"
    return None


_SPEC_FAULTS: Final = {
    "bad_phone_number": "must be the provider and a phone number, such as whatsapp:+5511987654321",
    "bad_channel_url": "is no channel that is known: simulator:, webhook:https://..., whatsapp:+55..., or an apprise URL",
}


def default_spec(credentials: Mapping[str, Any]) -> str:
    """Where messages to families go: `contacts_channel`, else the provider that can send, else the simulated phone."""
    chosen = credentials.get("contacts_channel")
    if isinstance(chosen, str) and chosen:
        return chosen
    for provider in PROVIDERS:
        if can_send(provider, credentials.get(provider)):
            return f"{provider}:"
    return "simulator:"


_NEEDED: Final = {
    "whatsapp": ("phone_number_id", "access_token"),
    "evolution": ("base_url", "instance", "api_key"),
    "uazapi": ("base_url", "token"),
}


_EVERY_CREDENTIAL: Final = {provider: dict.fromkeys(names, "x") for provider, names in _NEEDED.items()}
"""Stands for the settings of a clinic that has everything, where only the words of a channel are looked at."""


def can_send(provider: str, section: object) -> bool:
    """Whether a provider's settings hold all that sending needs (receiving needs less)."""
    return isinstance(section, Mapping) and all(_word(section, name) for name in _NEEDED[provider])


def _word(section: Mapping[str, Any], name: str) -> str | None:
    value = section.get(name)
    return value if isinstance(value, str) and value else None


def _number(rest: str) -> str | None:
    if not rest:
        return None
    number = e164(rest)
    if number is None:
        raise ChannelUnavailable("bad_phone_number")
    return number


def _provider(scheme: str, target: str | None, section: object, world: World) -> Channel:
    if not isinstance(section, Mapping) or not can_send(scheme, section):
        raise ChannelUnavailable(f"{scheme}_not_configured")
    words = {name: section[name] for name in _NEEDED[scheme]}
    if scheme == "whatsapp":
        base_url = _word(section, "base_url") or world.cloud_api
        return WhatsAppCloudChannel(
            world.client, **words, base_url=base_url, target=target, allowed=world.allowed, limits=world.limits
        )
    if scheme == "evolution":
        return EvolutionChannel(world.client, **words, target=target, allowed=world.allowed, limits=world.limits)
    return UazapiChannel(world.client, **words, target=target, allowed=world.allowed, limits=world.limits)
