"""Whether the server behind a channel can be reached: one connection, with TLS where calls use it, and nothing sent over it."""

import asyncio
import ssl
from dataclasses import dataclass
from functools import cache

import httpx

from app.channels.addresses import AllowList, checked_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The server that a channel calls. `guarded`: its address came with a tenant's URL, so the allow-list holds for it."""

    host: str
    port: int
    tls: bool
    guarded: bool = False


def endpoint(url: str | httpx.URL, *, guarded: bool = False) -> Endpoint | None:
    """The server of an http(s) address; None for anything else."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        return None
    tls = parsed.scheme == "https"
    return Endpoint(host=parsed.host, port=parsed.port or (443 if tls else 80), tls=tls, guarded=guarded)


async def reach(target: Endpoint, allowed: AllowList, timeout_s: float) -> str:
    """Connect once; a short code of what was in the way, '' when the server was there."""
    try:
        async with asyncio.timeout(timeout_s):
            address: object = target.host
            if target.guarded:
                address = await checked_address(target.host, target.port, allowed)
                if address is None:
                    return "private_address"
            context, name = (_context(), target.host) if target.tls else (None, None)
            _, writer = await asyncio.open_connection(str(address), target.port, ssl=context, server_hostname=name)
            writer.close()
    except ssl.SSLError:
        return "tls_refused"
    except TimeoutError:
        return "timeout"
    except (OSError, UnicodeError) as error:
        return type(error).__name__
    return ""


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
