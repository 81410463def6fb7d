"""Whoever does not read what they asked for loses the connection; whoever reads slowly keeps it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from app.__main__ import _Server
from app.web.connection import Connection
from tests.services import free_port

UNREAD_S = 0.8
"""Longer than this process stands still on a busy machine."""


class Quick(Connection):
    """With less patience."""

    unread_within_s = UNREAD_S


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[uvicorn.Server]:
    """A server of this application on a port of its own."""
    config = uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_config=None, lifespan="off", http=Quick)
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # uvicorn has no event for it
            await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        server.force_exit = True  # what a failed test left open is not waited for
        await serving


async def ask(server: uvicorn.Server) -> socket.socket:
    """A request over a connection with a small window, as over a real network."""
    one = socket.socket()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, ("127.0.0.1", server.config.port))
    await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return one


SIZE = 400_000


async def pours(_scope: Any, receive: Any, send: Any) -> None:
    """Goes on until the other end is gone."""
    await receive()  # the request
    await send({"type": "http.response.start", "status": 200, "headers": []})
    pouring = asyncio.ensure_future(_pour(send))
    assert (await receive())["type"] == "http.disconnect"
    pouring.cancel()


async def _pour(send: Any) -> None:
    while True:
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
        await asyncio.sleep(0)  # what is sent to nobody waits for nothing


def at_once(*headers: tuple[bytes, bytes]) -> Any:
    """Everything in one piece."""

    async def whole(_scope: Any, _receive: Any, send: Any) -> None:
        length = (b"content-length", str(SIZE).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
        await send({"type": "http.response.body", "body": b"x" * SIZE})

    return whole


@pytest.mark.parametrize("app", [pours, at_once(), at_once((b"connection", b"close"))], ids=["stream", "kept", "closing"])
async def test_an_answer_that_nobody_reads_ends_and_so_does_its_connection(app: Any) -> None:
    async with served(app) as server:
        with await ask(server):
            async with asyncio.timeout(30):
                while not server.server_state.connections:  # it has arrived
                    await asyncio.sleep(0.01)
                while server.server_state.connections or server.server_state.tasks:
                    await asyncio.sleep(0.01)


async def test_an_answer_that_is_read_slowly_arrives_whole() -> None:
    async with served(at_once()) as server:
        with await ask(server) as one:
            loop = asyncio.get_running_loop()
            began, got = loop.time(), 0
            while got < SIZE:
                piece = await loop.sock_recv(one, 16_384)
                assert piece, "cut off"
                got += piece.count(b"x")
                if loop.time() - began < 3 * UNREAD_S:
                    await asyncio.sleep(UNREAD_S / 10)
            assert loop.time() - began > 3 * UNREAD_S
