"""HTTP connections of the simulator: one request at a time on each, the last one used first.

httpx's own pool hands one idle connection to every request that waits and lets all but one of them start over; with two
hundred waiting on a busy machine nearly all of its connections lie idle and a request takes seconds that the server never
sees. Here a request has a connection to itself before it starts.
"""

import asyncio
from types import TracebackType
from typing import Any

import httpx


class Lines:
    """At most `limit` connections, opened when they are needed; close it with `async with`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._certificates = httpx.create_ssl_context()
        self._clients: list[httpx.AsyncClient] = []
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send one request, when one of the connections is free. Raises httpx.HTTPError."""
        client = await self._line()
        try:
            return await client.request(method, url, **options)
        finally:
            self._free.put_nowait(client)

    async def _line(self) -> httpx.AsyncClient:
        if self._free.empty() and len(self._clients) < self._limit:
            one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            client = httpx.AsyncClient(limits=one, trust_env=False, verify=self._certificates)
            self._clients.append(client)
            return client
        return await self._free.get()

    async def __aenter__(self) -> "Lines":
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.aclose()
