"""A provider that speaks real HTTP and misbehaves on request."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int = 200, document: Any = None, **headers: str) -> Behaviour:
    """A complete answer."""
    body = json.dumps({} if document is None else document).encode()

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "content-type: application/json"]
        lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return behave


def accepts(message_id: str = "wamid.1") -> Behaviour:
    """What the Cloud API says when it took a message."""
    return answer(200, {"messaging_product": "whatsapp", "messages": [{"id": message_id}]})


async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
    """Never an answer; ends when the other side goes away."""
    await asyncio.Event().wait()


async def drip(_request: Request, writer: asyncio.StreamWriter) -> None:
    """A valid answer, one byte at a time: each read is quick, the whole never ends."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
    for byte in head + b"x" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def reset(_request: Request, writer: asyncio.StreamWriter) -> None:
    """RST after the request was read."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def nonsense(_request: Request, writer: asyncio.StreamWriter) -> None:
    """200 with something that is no JSON."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n<html>oi</html")
    await writer.drain()


@dataclass
class Provider:
    """The server: `script` is used up first, then `default` answers everything."""

    port: int = 0
    default: Behaviour = field(default_factory=accepts)
    script: list[Behaviour] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers = {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Request(method, path, headers, body)
                self.requests.append(request)
                self.arrived.set()
                behave = self.script.pop(0) if self.script else self.default
                await behave(request, writer)
        with contextlib.suppress(OSError):
            writer.close()


@asynccontextmanager
async def provider(default: Behaviour | None = None, *script: Behaviour) -> AsyncIterator[Provider]:
    """A provider on a free port of 127.0.0.1."""
    made = Provider(default=default or accepts(), script=list(script))
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the provider is closing
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
