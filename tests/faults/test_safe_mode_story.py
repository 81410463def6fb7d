"""The whole of safe mode on real processes, sixty times as fast: two nodes on PostgreSQL and Redis, a real HTTP sink, kill -9.

One critical alert and nobody moves: safe mode at fifteen minutes, requests parked, families told, ticket open; the exit is
refused, aborted by a dead Redis, granted; what was parked leaves in order. At each stage a node is killed.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.store.database import run_in_thread
from app.store.tables import ContingencyNotice, Ledger, Outbox, SafeStep, Ticket, table
from tests.server import Server, init, kora
from tests.services import RedisServer
from tests.web.api_client import PERMISSION
from tests.web.safe_mode_driver import DONE

FAMILIES = ("c-ana", "c-bia", "c-caio")


class Sink:
    """What stands for WhatsApp and the ops channel: keeps every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                sink.requests.append((self.path, body))
                answer = json.dumps({"key": {"id": f"m-{len(sink.requests)}"}}).encode()
                self.send_response(201)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """The test reads the requests, not the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["Sink"]:
        """Serve while the test runs."""
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def texts(self, path: str) -> list[tuple[str, str]]:
        """Number and text of everything that went to a path."""
        return [(body.get("number", ""), body.get("text", "")) for to, body in self.requests if to.startswith(path)]


class Caller:
    """A program with the clinic's key that asks whichever node answers."""

    def __init__(self, key: str, *nodes: Server) -> None:
        self.nodes, self._headers = list(nodes), {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        node = self.nodes[0]
        answer = httpx.request(method, f"{node.url}/api/v1{path}", headers=self._headers, json=body, timeout=10, trust_env=False)
        wanted = status or {"PUT": 200, "GET": 200}.get(method)
        assert wanted is None or answer.status_code == wanted, f"{method} {path}: {answer.status_code} {answer.text}\n{node.tail()}"
        return answer.json()

    def state(self) -> Any:
        return self("GET", "/safe-mode")

    def now(self) -> datetime:
        """The product's time, as its newest health sample says it."""
        moments = [c["at"] for c in self.state()["health_window"]["checks"] if c["at"]]
        return max(datetime.fromisoformat(m) for m in moments)


def until(what: str, holds: Callable[[], Any], limit_s: float) -> Any:
    """The first true value; fails with `what` at the limit."""
    began = time.monotonic()
    while not (value := holds()):
        assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)
    return value


def rows(url: str, of: Any) -> list[Any]:
    def read(conn: Connection) -> list[Any]:
        return list(conn.execute(select(table(of))))

    return run_in_thread(url, read)


def schedule(now: datetime, contact_id: str, number: int) -> dict[str, Any]:
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


@pytest.mark.paced
@pytest.mark.story("S-PC-03-001")
@pytest.mark.story("S-PC-03-002")
@pytest.mark.story("S-PC-03-003")
@pytest.mark.story("S-PC-03-004")
def test_nobody_acknowledges_and_everything_follows_though_nodes_die(postgres_url: str, redis_server: RedisServer) -> None:
    made = init(postgres_url)
    extra = {"KORA_TIME_SCALE": "60", "KORA_REDIS_URL": redis_server.url}
    nodes = [Server(postgres_url, KORA_NODE_ID=name, **extra) for name in ("a", "b")]
    with Sink().running() as sink, nodes[0] as a, nodes[1] as b:
        call = Caller(made["keys"]["tenant"], b, a)
        evolution = {"base_url": sink.url, "instance": "sol", "api_key": "k"}
        channels = {"ops": f"webhook:{sink.url}/ops", "superadmin_whatsapp": f"webhook:{sink.url}/super"}
        call("PUT", "/settings/sol", {"evolution": evolution, "channels": channels})
        call("PUT", "/therapists/t-ana", {"name": "Ana"})
        call("PUT", "/patients/p-pedro", {"name": "Pedro"})
        for n, name in enumerate(FAMILIES):
            call("PUT", f"/contacts/{name}", {"phone": f"+551190000000{n}", "name": name})
            call("PUT", f"/patients/p-pedro/guardians/{name}", PERMISSION)

        # an alert, and nobody moves; the node that took it dies
        raised = {"trigger": "n8n_down", "severity": "critical", "summary": "O n8n parou", "dedup_key": "n8n-1"}
        alert_id = call("POST", "/alerts", raised, 201)["alert_id"]
        deadline = datetime.fromisoformat(call("GET", f"/alerts/{alert_id}")["safe_mode_at"])
        a.kill()
        entered = until("safe mode", lambda: (s := call.state())["state"] == "safe_mode_active" and s["episode_id"] and s, 22)
        assert datetime.fromisoformat(entered["since"]) == deadline.replace(microsecond=deadline.microsecond // 1000 * 1000)
        assert [c["alert_id"] for c in entered["causes"]] == [alert_id]

        # requests are parked with their place, messages are heard; then the other node dies, too
        moment = call.now()
        sent = [
            call("POST", "/commands", schedule(moment, name, 10 * n + k), 202)["command_id"]
            for n, name in enumerate(FAMILIES)
            for k in (1, 2)
        ]
        event = {"contact_id": "c-duda", "external_id": "w-1", "event_type": "message", "payload": {"text": "Oi"}}
        heard = call("POST", "/events", event | {"occurred_at": moment.isoformat()}, 202)
        assert heard["status"] == "queued_for_dispatch"
        until("parked", lambda: call.state()["parked"] == len(sent), 5)
        b.kill()
        a.start()
        call.nodes = [a]
        b.start()
        # a message that was on its way when the node died is never repeated: a person has it instead
        until("families told", lambda: len(sink.texts("/message/sendText")) >= len(FAMILIES) - 1, 8)
        assert call.state()["state"] == "safe_mode_active"

        # the way out: refused, then aborted by a dead Redis, then granted though a node dies in the window
        denied = call("POST", "/safe-mode/exit", status=200)
        assert denied["result"] == "safe_mode_exit_denied_missing_checklist"
        assert denied["missing"][0] == f"ack:{alert_id}"
        call("POST", f"/alerts/{alert_id}/ack", status=200)
        assert "recovery_action" in call("POST", "/safe-mode/exit")["missing"]
        call("POST", "/safe-mode/recovery", DONE, 200)
        until("green", lambda: call("POST", "/safe-mode/exit")["state"] == "recovering", 8)
        until("minute six", lambda: call.state()["health_window"]["green_s"] > 300, 12)
        redis_server.kill()
        aborted = until("the abort", lambda: (s := call.state())["state"] == "safe_mode_active" and s, 5)
        assert (aborted["last_exit_result"], aborted["last_exit_reason"]) == ("safe_mode_exit_aborted_health_unstable", "redis")
        assert (aborted["health_window"]["green_s"], aborted["health_window"]["reset_by"]) == (0, "redis")
        redis_server.restart()
        until("green again", lambda: call("POST", "/safe-mode/exit")["state"] == "recovering", 15)
        b.kill()
        last = until("the drain", lambda: (s := call.state())["state"] in ("draining", "normal") and s, 20)
        assert last["last_exit_result"] == "safe_mode_exit_completed"
        until("normal", lambda: call.state()["state"] == "normal", 10)
        results = [until("a result", lambda i=i: call("GET", f"/commands/{i}")["result"], 5) for i in sent]  # type: ignore[misc]
        assert results == ["replayed"] * len(sent)
        ladder = call("GET", f"/alerts/{alert_id}")
        assert ladder["result"] == "ack_timeout_escalated"
        until("vanished senders' leases", lambda: all(o.status != "sending" for o in rows(postgres_url, Outbox)), 60)
    tell_the_story(postgres_url, sink)
    kora(postgres_url, "verify")


def tell_the_story(url: str, sink: Sink) -> None:
    """What the database and the outside world remember."""
    told = sink.texts("/message/sendText")
    contingency = [number for number, text in told if "nada foi marcado ainda" in text]
    assert len(set(contingency)) == len(contingency) >= len(FAMILIES) - 1
    assert set(contingency) <= {f"551190000000{n}" for n in range(len(FAMILIES))}
    notices = [n for n in rows(url, ContingencyNotice) if n.intent == "schedule"]
    assert sorted(n.contact_id for n in notices) == sorted(FAMILIES)
    # a node that died between sending and writing it down leaves an unknown outcome: to a person, never sent again
    ended = {o.contact_id: o.status for o in rows(url, Outbox) if "nada foi marcado ainda" in o.body_json}
    assert sorted(ended) == sorted(FAMILIES)
    verdicts = {"sent": "contingency_message_sent_ticket_opened", "unknown": "contingency_message_failed_ticket_opened"}
    assert {n.contact_id: n.result for n in notices} == {name: verdicts[status] for name, status in ended.items()}
    # other alerts of these minutes that nobody acknowledged have tickets of their own
    episodes = {step.episode_id for step in rows(url, SafeStep)}
    assert [t.kind for t in rows(url, Ticket) if t.cause_id in episodes] == ["critical"]
    assert {path for path, _ in sink.requests} >= {"/ops", "/super"}
    steps = [step.kind for step in sorted(rows(url, SafeStep), key=lambda s: s.position)]
    assert steps[0] == "entered"
    assert (
        steps.index("exit_denied") < steps.index("recovery_recorded") < steps.index("exit_aborted") < steps.index("exit_completed")
    )
    assert steps[-1] == "drained"
    for name in FAMILIES:
        orders = sorted((e.committed_at, e.commit_order) for e in rows(url, Ledger) if e.contact_id == name)
        assert [order for _, order in orders] == [1, 2]
