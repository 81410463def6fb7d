"""What stands outside the product in the stories of safe mode: the provider's sink, a program with a key, a person's browser."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, select

from app.store.database import run_in_thread
from app.store.tables import table
from tests.server import ONE_EACH, Server


@dataclass(frozen=True)
class Arrival:
    """A request as it arrived; `at` is the machine's monotonic clock, `port` the caller's end of the connection."""

    at: float
    path: str
    body: Any
    key: str
    port: int

    @property
    def number(self) -> str:
        """Whose phone it is for; '' at a webhook."""
        return str(self.body.get("number", ""))

    @property
    def text(self) -> str:
        """Its words."""
        return str(self.body.get("text", ""))


@dataclass
class Held:
    """An answer that the sink keeps to itself: the caller's message has arrived and it does not know."""

    wanted: Callable[[Arrival], bool]
    arrived: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    arrival: Arrival | None = None


class Sink:
    """What stands for WhatsApp's provider and the ops channel: keeps every request, can hold an answer, can go away."""

    def __init__(self) -> None:
        self.requests: list[Arrival] = []
        self._held: Held | None = None
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Where it is, also while it is away."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, on the port of the last time."""
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                sink._connections.add(self.connection)

            def finish(self) -> None:
                sink._connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = self.headers.get("idempotency-key", "")
                sink._take(Arrival(time.monotonic(), self.path, body, key, self.client_address[1]))
                answer = json.dumps({"key": {"id": f"m-{len(sink.requests)}"}}).encode()
                self.send_response(201)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    self.close_connection = True  # the caller was killed, or the sink went away

            def log_message(self, *_: object) -> None:
                """The test reads the requests, not the log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away: connections are cut, new ones are refused."""
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            connection.shutdown(socket.SHUT_RDWR)
        self._server = None

    @contextmanager
    def running(self) -> Iterator["Sink"]:
        """Serve while the test runs."""
        self.start()
        try:
            yield self
        finally:
            if self._held is not None:
                self._held.go_on.set()
            if self._server is not None:
                self.stop()

    def hold(self, wanted: Callable[[Arrival], bool]) -> Held:
        """Keep the answer to the first request that is `wanted`, until `go_on` is set."""
        self._held = Held(wanted)
        return self._held

    def _take(self, arrival: Arrival) -> None:
        self.requests.append(arrival)
        held = self._held
        if held is not None and held.arrival is None and held.wanted(arrival):
            held.arrival = arrival
            held.arrived.set()
            held.go_on.wait(60)

    def at(self, path: str, number: str | None = None) -> list[Arrival]:
        """What went to a path, to one phone if it is named."""
        return [a for a in self.requests if a.path.startswith(path) and number in (None, a.number)]


class Pulse:
    """How long this machine stood still, or had something else to do than to wake up whoever asked for it."""

    EACH_S = 0.02

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        """When a beat came, and how much later than it was due."""

    @contextmanager
    def running(self) -> Iterator["Pulse"]:
        """Beat while the test runs."""
        stop = threading.Event()

        def beat() -> None:
            last = time.monotonic()
            while not stop.wait(self.EACH_S):
                moment = time.monotonic()
                if moment - last > 2 * self.EACH_S:
                    self._late.append((moment, moment - last - self.EACH_S))
                last = moment

        thread = threading.Thread(target=beat, name="pulse", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def still_s(self, since: float) -> float:
        """The sum of what was late in the five seconds that follow a moment of the monotonic clock."""
        return sum(late for moment, late in self._late if since <= moment <= since + 5 + late)


def sender_of(arrival: Arrival, nodes: list[Server]) -> Server:
    """The node at the other end of a connection that still stands."""
    # other connections, also ended ones, may have begun at a port of the same number: they belong to nobody here
    sockets = {
        f"socket:[{words[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int((words := line.split())[1].rpartition(":")[2], 16) == arrival.port
    }
    for node in nodes:
        if node.pid is not None and sockets & _open_files(node.pid):
            return node
    raise AssertionError(f"no node holds the connection from port {arrival.port}")


def _open_files(pid: int) -> set[str]:
    found = set()
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(name.readlink()))
        except FileNotFoundError:
            continue  # closed since it was listed
    return found


class Caller:
    """A program with a key that asks the first of its nodes that is there."""

    def __init__(self, key: str, *nodes: Server) -> None:
        self.nodes = nodes
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=10, trust_env=False, limits=ONE_EACH)

    def __call__(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        answer, node = until("a node that is there", lambda: self._ask(method, path, body))
        wanted = status or {"PUT": 200, "GET": 200}.get(method)
        assert wanted is None or answer.status_code == wanted, f"{method} {path}: {answer.status_code} {answer.text}\n{node.tail()}"
        return answer.json()

    def _ask(self, method: str, path: str, body: Any) -> tuple[httpx.Response, Server] | None:
        for node in self.nodes:
            try:
                return self._client.request(method, f"{node.url}/api/v1{path}", json=body), node
            except httpx.ConnectError:
                continue  # killed, or not up again yet: nothing was sent
        return None

    def state(self) -> Any:
        """Safe mode as the API shows it."""
        return self("GET", "/safe-mode")

    def now(self) -> datetime:
        """The product's time, as its newest health sample says it."""
        moments = until("a health sample", lambda: [c["at"] for c in self.state()["health_window"]["checks"] if c["at"]])
        return max(datetime.fromisoformat(m) for m in moments)


class Browser:
    """A person who signs in with the form and reads pages."""

    def __init__(self, node: Server, email: str, password: str) -> None:
        self._client = httpx.Client(base_url=node.url, timeout=10, trust_env=False, limits=ONE_EACH)
        token = re.search(r'name="_csrf"\s+value="([0-9a-f]+)"', self._client.get("/login").text)
        assert token is not None
        form = {"email": email, "password": password, "_csrf": token[1]}
        answer = self._client.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 303, answer.text

    def lines(self, path: str, css_class: str) -> list[str]:
        """The items of the list with a class, as text."""
        page = self._client.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200, page.text
        block = re.search(rf'<ol class="{css_class}"[^>]*>(.*?)</ol>', page.text, re.DOTALL)
        assert block is not None, f"no list {css_class} at {path}"
        items = re.findall(r"<li[^>]*>(.*?)</li>", block[1], re.DOTALL)
        return [unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", item))).strip() for item in items]


def until(what: str, holds: Callable[[], Any], limit_s: float = 60, why: Callable[[], Any] = str) -> Any:
    """The first true value; fails with `what` and `why` at the limit, which is for what hangs: a busy machine may take long."""
    began = time.monotonic()
    while not (value := holds()):
        assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {what} {why()}"
        time.sleep(0.05)
    return value


def rows(url: str, of: Any) -> list[Any]:
    """A table as it is."""

    def read(conn: Connection) -> list[Any]:
        return list(conn.execute(select(table(of))))

    return run_in_thread(url, read)


def schedule(now: datetime, contact_id: str, number: int) -> dict[str, Any]:
    """A family asks for an hour of its own, the day after tomorrow."""
    start = now + timedelta(days=2, hours=number)
    return {
        "contact_id": contact_id,
        "command_type": "schedule",
        "patient_id": "p-pedro",
        "requested_by": "ai",
        "confirmed_by_contact": True,
        "guardian_version": 1,
        "conversation_version": 1,
        "as_of": now.isoformat(),
        "occurred_at": now.isoformat(),
        "idempotency_key": f"k-{number}",
        "correlation_id": f"corr-{number}",
        "payload": {
            "appointment_id": f"a-{number}",
            "therapist_id": "t-ana",
            "start": start.isoformat(),
            "end": (start + timedelta(minutes=50)).isoformat(),
        },
    }
