"""Any service that apprise knows, as a fixed target: one apprise object per target, so that one never hides another.

URLs hold secrets: they are never logged and never part of a key, a detail or an error.
"""

import hashlib
import ipaddress
import warnings
from functools import cache
from typing import Any, Final

import apprise

from app.channels.addresses import AllowList, checked_address
from app.channels.outbound import OutboundMessage, Outcome, SendResult, refused
from app.channels.reach import Endpoint, endpoint

_OWN_HOST: Final = frozenset({"json", "jsons", "form", "forms", "xml", "xmls"})
"""Schemes whose host is a server; elsewhere it may be a token."""
TIMEOUT_S: Final = 7.0
"""Below the patience of the alert loop, so that a service that hangs gives its thread back."""


@cache
def load_services() -> None:
    """Load apprise's services (half a second, once); call it in a thread at the start to spare the first alert that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a shim of theirs imports a module that Python 3.13 drops
        apprise.Apprise.instantiate("json://localhost")


class AppriseChannel:
    """One apprise URL. Raises ValueError when apprise cannot read it."""

    addressable = False

    def __init__(self, url: str, *, allowed: AllowList) -> None:
        load_services()
        asset = apprise.AppriseAsset(
            app_id="KoraOS", app_desc="KoraOS Console", secure_logging=True, http_redirects=0, service_timeout=TIMEOUT_S
        )
        self._plugin: Any = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if self._plugin is None:
            raise ValueError("apprise cannot read this channel URL")
        self._asset = asset
        self._allowed = allowed
        self.service = str(self._plugin.service_name)
        digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.key = f"{url.partition(':')[0].lower()}:{digest}"
        self.endpoint = _endpoint(self._plugin)

    async def send(self, message: OutboundMessage) -> SendResult:
        """Notify; a service that says no has `failed`, one that did not answer in time is `unknown`."""
        forbidden = await self._forbidden()
        if forbidden is not None:
            return forbidden
        target = apprise.Apprise(asset=self._asset)
        target.add(self._plugin)
        result = await target.async_notify(
            title=message.title or "", body=message.text or " ", body_format=apprise.NotifyFormat.TEXT
        )
        answers = list(getattr(result, "results", ()))
        status = answers[0].status if answers else apprise.AppriseResultStatus.FAILURE
        if status == apprise.AppriseResultStatus.SUCCESS:
            return SendResult(outcome=Outcome.SENT)
        if status == apprise.AppriseResultStatus.TIMEOUT:
            return SendResult(outcome=Outcome.UNKNOWN, detail="timeout")
        return SendResult(outcome=Outcome.FAILED, detail="service_refused")

    async def _forbidden(self) -> SendResult | None:
        """Self-hosted targets (a URL with a host of its own) must not point into a private network."""
        host = getattr(self._plugin, "host", None)
        if self._allowed.anything or not isinstance(host, str) or not host:
            return None
        port = getattr(self._plugin, "port", None)
        try:
            address = await checked_address(host.strip("[]"), port if isinstance(port, int) else 443, self._allowed)
        except (OSError, UnicodeError):
            # services with a fixed address keep other things in `host`; a name that does not resolve cannot be reached
            return None if not _is_address(host) else SendResult(outcome=Outcome.FAILED, detail="host_not_found")
        return refused("private_address") if address is None else None


def _endpoint(plugin: Any) -> Endpoint | None:
    """The server of a service, where its plugin says it: a fixed address, a mail server, or a host of one's own."""
    fixed = getattr(plugin, "notify_url", None) or getattr(plugin, "webhook_url", None)
    if isinstance(fixed, str) and "{" not in fixed:
        return endpoint(fixed)
    mail = getattr(plugin, "smtp_host", None)
    host, port = getattr(plugin, "host", None), getattr(plugin, "port", None)
    if isinstance(mail, str) and mail and isinstance(port, int):
        return Endpoint(host=mail, port=port, tls=False)
    if str(getattr(plugin, "schema", "")) not in _OWN_HOST or not isinstance(host, str) or not host:
        return None
    tls = bool(getattr(plugin, "secure", False))
    return Endpoint(host=host.strip("[]"), port=port if isinstance(port, int) else (443 if tls else 80), tls=tls, guarded=True)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
