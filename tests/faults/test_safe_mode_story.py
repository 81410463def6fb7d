"""The whole of safe mode on real processes, sixty times as fast: a minute of the product is a second of the machine.

One critical alert and nobody moves: safe mode at fifteen minutes, requests parked, families told, ticket open; the exit is
refused, aborted by a red check, granted; what was parked leaves in order through the fences. Told three times: on one server that
nobody disturbs, on two nodes that are killed at every stage, and on a server whose machine's clock is an hour wrong.

Tolerances are minutes of the product. A step may never come before its minute, and must come before the middle between it and the
next one (`EARLY_ENOUGH`): two and a half real seconds, which is what a machine with something else to do may need. How long the
machine stood still beside that is measured (`Pulse`), and is nobody's delay.
"""

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from app.store.database import Database
from app.store.tables import AlertStep, ContingencyNotice, InboxMessage, Ledger, Outbox, SafeStep, Ticket
from tests import builders
from tests.conftest import prepare
from tests.faults.outside import Arrival, Browser, Caller, Pulse, Sink, rows, schedule, sender_of, until
from tests.server import Server, init, kora
from tests.services import RedisServer
from tests.web.api_client import PERMISSION
from tests.web.safe_mode_driver import ALL_TICKS, DONE

FAST = {"KORA_TIME_SCALE": "60"}
FAMILIES = ("c-ana", "c-bia", "c-caio")
SUPERADMIN = "5511988880000"
TOLD = "nada foi marcado ainda"
"""In every message to a family about a request that safe mode parked."""
ATTEMPTS = range(1, 8)
"""At 0, 5, ... 30 minutes."""
EARLY_ENOUGH = 2.5
LATE = timedelta(seconds=60)
"""From when on the product itself calls a step late."""
RAISED = {"trigger": "n8n_down", "severity": "critical", "summary": "O n8n parou", "dedup_key": "n8n-1"}
DENIED = "safe_mode_exit_denied_missing_checklist"


class SteppedServer(Server):
    """A server on a machine whose clock is wrong by what a file says."""

    program = ("-m", "tests.faults.stepped_clock")


def furnish(call: Caller, sink: Sink) -> None:
    """The provider and the ops channel are the sink; three families that may do everything."""
    evolution = {"base_url": sink.url, "instance": "sol", "api_key": "k"}
    channels = {"ops": f"webhook:{sink.url}/ops", "superadmin_whatsapp": f"webhook:{sink.url}/super"}
    call("PUT", "/settings/sol", {"evolution": evolution, "channels": channels})
    call("PUT", "/therapists/t-ana", {"name": "Ana"})
    call("PUT", "/patients/p-pedro", {"name": "Pedro"})
    for n, name in enumerate(FAMILIES):
        call("PUT", f"/contacts/{name}", {"phone": f"+551190000000{n}", "name": name})
        call("PUT", f"/patients/p-pedro/guardians/{name}", PERMISSION)


def minute(alert: Any, moment: str) -> float:
    """Minutes of the product since an alert was raised."""
    return (datetime.fromisoformat(moment) - datetime.fromisoformat(alert["raised_at"])).total_seconds() / 60


def late_as_it_was(step: Any) -> bool:
    """Whether a step of the API is marked late exactly when it was done more than a minute after it was due."""
    waited = datetime.fromisoformat(step["done_at"]) - datetime.fromisoformat(step["due_at"])
    return bool(step["late"]) == (waited > LATE)


# --- one server, undisturbed --------------------------------------------------------------------------------------------


@pytest.mark.paced
@pytest.mark.story("S-PC-03-001")
@pytest.mark.story("S-PC-03-002")
@pytest.mark.story("S-PC-03-003")
@pytest.mark.story("S-PC-03-004")
def test_nobody_moves_and_one_server_does_each_step_in_its_minute(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kora.db'}"
    made = init(url)
    sink, pulse = Sink(), Pulse()
    with sink.running(), Server(url, **FAST) as server, pulse.running():
        call, everywhere = Caller(made["keys"]["tenant"], server), Caller(made["keys"]["global"], server)
        furnish(call, sink)
        channels = {"superadmin_whatsapp": f"evolution:+{SUPERADMIN}"}  # the very provider that reaches families
        call("PUT", "/settings/sol", {"channels": {"ops": f"webhook:{sink.url}/ops"} | channels})
        call("PUT", "/contacts/c-duda", {"phone": "+5511900000003", "name": "Duda"})
        before = call.now()
        applied = call("POST", "/commands", schedule(before, "c-ana", 1), 202)["command_id"]
        until("the first booking", lambda: call("GET", f"/commands/{applied}")["result"] == "applied_once")

        # the alert, and nothing is done
        began = time.monotonic()
        alert_id = call("POST", "/alerts", RAISED, 201)["alert_id"]
        for level, due in (("warning", 5), ("high", 10), ("safe_mode", 15)):
            until(level, lambda level=level: call("GET", f"/alerts/{alert_id}")["level"] == level)  # type: ignore[misc]
            assert due <= time.monotonic() - began <= due + EARLY_ENOUGH + pulse.still_s(began + due)
        entered = until("safe mode", lambda: (s := call.state())["episode_id"] and s)
        assert entered["state"] == "safe_mode_active"
        parked = ask_in_safe_mode(call)
        until("the last attempt", lambda: len(sink.at("/message", SUPERADMIN)) == len(ATTEMPTS))
        until("the last answer", lambda: not call("GET", f"/alerts/{alert_id}")["upcoming"])
        ladder = call("GET", f"/alerts/{alert_id}")
        the_ladder_was_climbed_on_time(ladder, sink, pulse, began)
        assert minute(ladder, ladder["safe_mode_at"]) == 15
        assert milliseconds(entered["since"]) == milliseconds(ladder["safe_mode_at"])
        assert [(c["alert_id"], c["acknowledged"]) for c in entered["causes"]] == [(alert_id, False)]
        assert ticket_states(call, entered["episode_id"]) == ["open"]

        leave_as_the_gates_say(call, sink, pulse, alert_id)
        until("the drain", lambda: draining(call), why=call.state)
        until("normal", lambda: call.state()["state"] == "normal")
        ended = call.state()
        assert (ended["last_exit_result"], ended["parked"]) == ("safe_mode_exit_completed", 0)
        results = {i: until("a result", lambda i=i: call("GET", f"/commands/{i}")["result"]) for i in parked}  # type: ignore[misc]
        assert list(results.values()) == ["replayed", "replayed", "replayed", "blocked_agenda_conflict", *["conflict_blocked"] * 2]
        assert ticket_states(call, entered["episode_id"]) == ["resolved"]
        told_like_a_story(Browser(server, **made["superadmin"]), entered["episode_id"], alert_id)
        assert everywhere("GET", "/safe-mode?tenant_id=global")["state"] == "normal"
    what_families_got(url, sink)
    the_lanes_left_in_order(url, parked)
    kora(url, "verify")


def ticket_states(call: Caller, episode_id: str) -> list[str]:
    """Of the critical tickets of an episode; alerts that were escalated meanwhile have their own."""
    return [t["state"] for t in call("GET", "/tickets?kind=critical")["items"] if t["cause_id"] == episode_id]


def milliseconds(moment: str) -> datetime:
    """A moment as exactly as every document says it."""
    found = datetime.fromisoformat(moment)
    return found.replace(microsecond=found.microsecond // 1000 * 1000)


def ask_in_safe_mode(call: Caller) -> list[str]:
    """Six bookings that are parked in three lanes, and messages that are heard; what needs no confirmation still happens."""
    moment = call.now()
    asked = [schedule(moment, name, 10 * n + k) for n, name in enumerate(FAMILIES, 1) for k in (1, 2)]
    asked[3]["payload"] |= {k: schedule(moment, "c-bia", 11)["payload"][k] for k in ("start", "end")}  # the hour that Ana asked for
    parked = [call("POST", "/commands", one, 202)["command_id"] for one in asked]
    until("parked", lambda: call.state()["parked"] == len(parked))
    assert {call("GET", f"/commands/{i}")["status"] for i in parked} == {"pending_safe_mode"}
    heard = []
    for contact_id in ("c-caio", "c-duda"):  # what Caio says now makes his requests stale
        said = {"contact_id": contact_id, "external_id": f"w-{contact_id}", "event_type": "message", "payload": {"text": "Oi"}}
        heard.append(call("POST", "/events", said | {"occurred_at": moment.isoformat()}, 202)["event_id"])
    for event_id in heard:
        until("heard", lambda e=event_id: call("GET", f"/events/{e}")["status"] == "processed")  # type: ignore[misc]
    word = schedule(moment, "c-duda", 90) | {
        "command_type": "follow_up",
        "conversation_version": 2,
        "payload": {"text": "Já volto"},
    }
    fresh = call("POST", "/commands", word, 202)["command_id"]
    done = until("no booking, no wait", lambda: call("GET", f"/commands/{fresh}")["result"])
    assert (done in ("applied_once", "replayed"), call.state()["state"]) == (True, "safe_mode_active")
    return parked


def the_ladder_was_climbed_on_time(ladder: Any, sink: Sink, pulse: Pulse, began: float) -> None:
    """What arrived outside and what the API recorded, both against the ladder of the contract."""
    arrived = sink.at("/message", SUPERADMIN)
    for n, arrival in zip(ATTEMPTS, arrived, strict=True):
        due = 5 * (n - 1)
        assert due <= arrival.at - began <= due + EARLY_ENOUGH + pulse.still_s(began + due), f"attempt {n}"
        assert (f"Ainda aberto, tentativa {n}." in arrival.text) == (n > 1)
        assert ("O modo seguro está valendo" in arrival.text) == (due >= 15)
    (ops,) = sink.at("/ops")
    assert 0 <= ops.at - began <= EARLY_ENOUGH + pulse.still_s(began)
    assert (ops.body["alert_id"], ops.body["attempt"]) == (ladder["alert_id"], 1)
    attempts = sorted(ladder["attempts"], key=lambda a: (a["channel"], a["n"]))
    assert [(a["channel"], a["n"], minute(ladder, a["due_at"]), a["outcome"], a["fallback_of"]) for a in attempts] == [
        ("ops", 1, 0, "sent", None),
        *(("superadmin_whatsapp", n, 5 * (n - 1), "sent", None) for n in ATTEMPTS),
    ]
    levels = sorted(ladder["levels"], key=lambda step: step["due_at"])
    assert [(step["action"], minute(ladder, step["due_at"])) for step in levels] == [
        ("raise_warning", 5), ("raise_high", 10), ("enter_safe_mode", 15)
    ]  # fmt: skip
    for step in [*attempts, *levels]:
        at = minute(ladder, step["due_at"])
        assert 0 <= minute(ladder, step["done_at"]) - at <= EARLY_ENOUGH + pulse.still_s(began + at)
        assert late_as_it_was(step)
    assert (ladder["level"], ladder["result"], ladder["status"]) == ("safe_mode", "ack_timeout_escalated", "open")


def leave_as_the_gates_say(call: Caller, sink: Sink, pulse: Pulse, alert_id: str) -> None:
    """Refused without ACK, without action, without checklist; then the sink goes away in minute six of the green window."""
    denied = call("POST", "/safe-mode/exit")
    assert (denied["result"], denied["missing"][:2]) == (DENIED, [f"ack:{alert_id}", "recovery_action"])
    assert call("POST", f"/alerts/{alert_id}/ack", status=200)["ack_delay_s"] >= 30 * 60
    denied = call("POST", "/safe-mode/exit")
    assert (denied["result"], denied["missing"][:3]) == (DENIED, ["recovery_action", "recovery_by", "runbook_step"])
    call("POST", "/safe-mode/recovery", {k: v for k, v in DONE.items() if k != "checklist"}, 200)
    denied = call("POST", "/safe-mode/exit")
    assert (denied["result"], sorted(denied["missing"])) == (DENIED, sorted(ALL_TICKS))
    call("POST", "/safe-mode/recovery", {"checklist": ALL_TICKS}, 200)
    assert ticket_states(call, call.state()["episode_id"]) == ["in_progress"]
    assert call("POST", "/safe-mode/exit", status=202)["state"] == "recovering"
    until("minute six", lambda: recovering(call) and call.state()["health_window"]["green_s"] >= 300)
    sink.stop()
    aborted = until("the abort", lambda: (s := call.state())["state"] == "safe_mode_active" and s)
    sink.start()
    assert (aborted["last_exit_result"], aborted["last_exit_reason"]) == ("safe_mode_exit_aborted_health_unstable", "channels")
    window, still_s = aborted["health_window"], pulse.still_s(time.monotonic() - 2 * EARLY_ENOUGH)
    # a server behind a channel is looked at once a minute: the look that finds it gone falls into the minute that follows
    assert (window["green_s"], window["reset_by"], 300 <= window["reset_after_s"] <= 300 + 60 * (EARLY_ENOUGH + still_s)) == (
        0,
        "channels",
        True,
    )
    until("green again", lambda: call("POST", "/safe-mode/exit")["state"] == "recovering")


def recovering(call: Caller) -> bool:
    """Whether the way out goes on; who was thrown back because the machine was too busy for a sample asks again."""
    state = call.state()["state"]
    if state == "safe_mode_active":
        call("POST", "/safe-mode/exit")
    return bool(state != "safe_mode_active")


def draining(call: Caller) -> bool:
    """Whether it is over, or nearly; who was thrown back asks again."""
    return recovering(call) and call.state()["state"] in ("draining", "normal")


def told_like_a_story(browser: Browser, episode_id: str, alert_id: str) -> None:
    """The pages of the episode and of the alert, as the superadmin reads them."""
    story = browser.lines(f"/safe-mode?episode={episode_id}", "story-lines")
    sentences = [
        "Modo seguro ligado: O n8n parou.",
        "4 mensagens às famílias: geral 1, agendar 3.",
        "A saída foi recusada; falta: confirmação de um alerta, o que foi feito",
        "Confirmado depois de 30 min: O n8n parou.",
        "A saída foi recusada; falta: o que foi feito",
        "Recuperação: Redis reiniciado · redis-3.",
        "A saída foi recusada; falta: marcar",
        "Lista de conferência alterada.",
        "Saída iniciada: esperando dez minutos no verde.",
        "Os dez minutos voltaram a zero: um canal falhou.",
        "A saída foi interrompida: um canal falhou.",
        "Saída iniciada: esperando dez minutos no verde.",
        "Dez minutos no verde: o que estava parado começa a sair (6 pedidos parados).",
        "Normal de novo. Contatos com pedidos liberados: 3.",
    ]
    left = iter(story)
    for sentence in sentences:
        assert any(sentence in line for line in left), f"{sentence!r} is not told in its turn:\n" + "\n".join(story)
    assert sum("Chamado crítico aberto." in line for line in story) == 1
    rungs = browser.lines(f"/alerts?alert={alert_id}", "ladder")
    expected = ["tentativa 1", "tentativa 1", "Nível: atenção", "tentativa 2", "Nível: alto", "tentativa 3", "O modo seguro liga"]
    expected += [f"tentativa {n}" for n in ATTEMPTS[3:]]
    assert len(rungs) == len(expected)
    for rung, what in zip(rungs, expected, strict=True):
        assert what in rung


def what_families_got(url: str, sink: Sink) -> None:
    """One message for each family with a request on hold, and the ticket with it."""
    told = [a.number for a in sink.at("/message") if TOLD in a.text]
    assert sorted(told) == [f"551190000000{n}" for n in range(len(FAMILIES))]
    notices = {(n.contact_id, n.intent): n.result for n in rows(url, ContingencyNotice)}
    assert set(notices.values()) == {"contingency_message_sent_ticket_opened"}
    assert sorted(name for name, intent in notices if intent == "schedule") == sorted(FAMILIES)
    assert {name for name, intent in notices if intent == "general"} == {"c-duda"}, "who wrote, and asked for nothing"


def the_lanes_left_in_order(url: str, parked: list[str]) -> None:
    """Each command once, in the order in which its family asked."""
    ledger = [e for e in rows(url, Ledger) if e.command_id in parked]
    assert sorted(e.command_id for e in ledger) == sorted(parked)
    for name in {e.contact_id for e in ledger}:
        mine = sorted((e for e in ledger if e.contact_id == name), key=lambda e: e.commit_order)
        assert [e.command_id for e in mine] == [i for i in parked if i in {e.command_id for e in mine}]
        assert [e.committed_at for e in mine] == sorted(e.committed_at for e in mine)


# --- two nodes, killed at every stage -----------------------------------------------------------------------------------


CROWD = 45
"""Further families with a request each, so that the drain takes several looks and can be killed in the middle."""


class Nodes:
    """Two nodes that die and come back; the machine of the second has a clock that is an hour wrong, each time the other way."""

    def __init__(self, url: str, redis_url: str, off: Path) -> None:
        extra = {**FAST, "KORA_REDIS_URL": redis_url}
        self.a, self.b = (
            Server(url, KORA_NODE_ID="a", **extra),
            SteppedServer(url, KORA_NODE_ID="b", CLOCK_OFF_FILE=str(off), **extra),
        )
        self.off, self._pool = off, ThreadPoolExecutor(2)
        self._starts: dict[Server, Future[Server]] = {}
        off.write_text("3600")

    def kill(self, node: Server) -> None:
        """SIGKILL, and at once a new process, in the time that a process takes to start."""
        if node in self._starts:
            self._starts[node].result()
        node.kill()
        if node is self.b:
            self.off.write_text(str(-float(self.off.read_text())))
        self._starts[node] = self._pool.submit(node.start)

    def __enter__(self) -> "Nodes":
        try:
            for start in [self._pool.submit(node.start) for node in (self.a, self.b)]:
                start.result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for node in (self.a, self.b):
            node.__exit__()
        for start in self._starts.values():
            start.result()


@pytest.mark.paced
@pytest.mark.story("S-PC-03-001")
@pytest.mark.story("S-PC-03-002")
@pytest.mark.story("S-PC-03-003")
@pytest.mark.story("S-PC-03-004")
def test_nobody_acknowledges_and_everything_follows_though_nodes_die(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    made = init(postgres_url)
    sink = Sink()
    with sink.running(), Nodes(postgres_url, redis_server.url, tmp_path / "off") as nodes:
        call, everywhere = (Caller(made["keys"][name], nodes.b, nodes.a) for name in ("tenant", "global"))
        furnish(call, sink)
        call("PUT", "/settings/sol", {"replay_ttl_min": {"schedule": 1440}})  # a busy machine may need hours of this fast clock
        families = [*FAMILIES, *add_crowd(postgres_url, made["tenant"]["id"])]

        # an alert, and nobody moves; the node that took it dies, and so does whoever sends at minutes five and ten
        alert_id = call("POST", "/alerts", RAISED, 201)["alert_id"]
        deadline = call("GET", f"/alerts/{alert_id}")["safe_mode_at"]
        nodes.kill(nodes.b)
        killed = {1}
        for answered in (False, True):
            held = sink.hold(lambda arrival: arrival.path == "/super" and arrival.body["attempt"] not in killed)
            assert held.arrived.wait(60), "the next attempt does not come"
            assert held.arrival is not None
            sender = sender_of(held.arrival, [nodes.a, nodes.b])
            if answered:
                held.go_on.set()  # killed before it could write the answer down, or right after
            nodes.kill(sender)
            held.go_on.set()
            killed.add(held.arrival.body["attempt"])
        entered = until("safe mode", lambda: (s := call.state())["state"] == "safe_mode_active" and s["episode_id"] and s)
        assert milliseconds(entered["since"]) == milliseconds(deadline)
        assert [c["alert_id"] for c in entered["causes"]] == [alert_id]

        # requests are parked with their place, messages are heard; then both nodes die
        moment = call.now()
        asked = [schedule(moment, name, 10 * n + k) for n, name in enumerate(families) for k in ((1, 2) if n < 3 else (1,))]
        sent = [item["command_id"] for item in call("POST", "/commands", {"commands": asked}, 202)["items"]]
        event = {"contact_id": "c-duda", "external_id": "w-1", "event_type": "message", "payload": {"text": "Oi"}}
        heard = call("POST", "/events", event | {"occurred_at": moment.isoformat()}, 202)
        assert heard["status"] == "queued_for_dispatch"
        until("parked", lambda: call.state()["parked"] == len(sent))
        for node in (nodes.a, nodes.b):
            nodes.kill(node)
        for node in (nodes.a, nodes.b):
            until("both are there again", lambda n=node: Caller(made["keys"]["tenant"], n).state())  # type: ignore[misc]
        # a message that was on its way when the node died is never repeated: a person has it instead
        until("families told", lambda: not untold(postgres_url, families))
        assert call.state()["state"] == "safe_mode_active"
        until("the last attempt", lambda: any(a.body["attempt"] == 7 for a in sink.at("/super")))

        # the way out: refused, then aborted by a dead Redis, then granted though a node dies in the window
        denied = call("POST", "/safe-mode/exit", status=200)
        assert denied["result"] == DENIED
        assert denied["missing"][0] == f"ack:{alert_id}"
        ladder = until("the end of the ladder", lambda: (a := call("GET", f"/alerts/{alert_id}")) and not a["upcoming"] and a)
        assert ladder["result"] == "ack_timeout_escalated"
        call("POST", f"/alerts/{alert_id}/ack", status=200)
        assert "recovery_action" in call("POST", "/safe-mode/exit")["missing"]
        call("POST", "/safe-mode/recovery", DONE, 200)
        until("green", lambda: call("POST", "/safe-mode/exit")["state"] == "recovering")
        until("minute six", lambda: recovering(call) and call.state()["health_window"]["green_s"] > 300)
        redis_server.kill()
        aborted = until("the abort", lambda: (s := call.state())["state"] == "safe_mode_active" and s)
        assert (aborted["last_exit_result"], aborted["last_exit_reason"]) == ("safe_mode_exit_aborted_health_unstable", "redis")
        assert (aborted["health_window"]["green_s"], aborted["health_window"]["reset_by"]) == (0, "redis")
        redis_server.restart()
        until("green again", lambda: call("POST", "/safe-mode/exit")["state"] == "recovering")
        take_on(everywhere)
        nodes.kill(nodes.b)
        until("the drain", lambda: draining(call) and call.state()["released"], why=call.state)
        nodes.kill(nodes.a)
        # what a killed sender had in its hands is late until its lease is over: red, back to safe mode, and out again
        until("normal", lambda: draining(call) and call.state()["state"] == "normal", 180, why=call.state)
        results = [until("a result", lambda i=i: call("GET", f"/commands/{i}")["result"]) for i in sent]  # type: ignore[misc]
        assert results == ["replayed"] * len(sent)
        until("vanished senders' leases", lambda: not untold(postgres_url, families, "sending"))
    tell_the_story(postgres_url, sink, families)
    no_rung_is_missing_or_doubled(postgres_url, sink, alert_id, killed)
    kora(postgres_url, "verify")


def add_crowd(url: str, tenant_id: str) -> list[str]:
    """Further families that may do everything; returns their ids."""
    names = [f"c-{n:02d}" for n in range(CROWD)]

    def write(conn: Connection) -> None:
        for n, name in enumerate(names):
            builders.contact(conn, tenant_id=tenant_id, contact_id=name, phone=f"+5511910000{n:03d}", name=name)
            builders.guardian(conn, tenant_id=tenant_id, contact_id=name)

    async def work(database: Database) -> None:
        await database.write(write)

    prepare(url, work)
    return names


def untold(url: str, families: list[str], *statuses: str) -> list[str]:
    """Families without a contingency message that has left a node's hands, or whose message is in one of some states."""
    messages = {o.contact_id: o.status for o in rows(url, Outbox) if TOLD in o.body_json}
    return [name for name in families if messages.get(name) in (statuses or (None, "pending"))]


def take_on(everywhere: Caller) -> None:
    """A superadmin takes on what else has been alerted meanwhile (a dead Redis, refused exits)."""
    for alert in everywhere("GET", "/alerts?status=open")["items"]:
        everywhere("POST", f"/alerts/{alert['alert_id']}/ack", status=200)


def tell_the_story(url: str, sink: Sink, families: list[str]) -> None:
    """What the database and the outside world remember."""
    contingency = [a.number for a in sink.at("/message/sendText") if TOLD in a.text]
    assert len(set(contingency)) == len(contingency)
    phones = [f"551190000000{n}" for n in range(len(FAMILIES))] + [f"5511910000{n:03d}" for n in range(CROWD)]
    assert set(contingency) <= set(phones)
    notices = [n for n in rows(url, ContingencyNotice) if n.intent == "schedule"]
    assert sorted(n.contact_id for n in notices) == sorted(families)
    # a node that died between sending and writing it down leaves an unknown outcome: to a person, never sent again
    ended = {o.contact_id: o.status for o in rows(url, Outbox) if TOLD in o.body_json}
    assert sorted(ended) == sorted(families)
    assert {phone for name, phone in zip(families, phones, strict=True) if ended[name] == "sent"} <= set(contingency)
    verdicts = {"sent": "contingency_message_sent_ticket_opened", "unknown": "contingency_message_failed_ticket_opened"}
    assert {n.contact_id: n.result for n in notices} == {name: verdicts[status] for name, status in ended.items()}
    # other alerts of these minutes that nobody acknowledged have tickets of their own
    episodes = {step.episode_id for step in rows(url, SafeStep)}
    assert [t.kind for t in rows(url, Ticket) if t.cause_id in episodes] == ["critical"]
    assert {a.path for a in sink.requests} >= {"/ops", "/super"}
    steps = [step.kind for step in sorted(rows(url, SafeStep), key=lambda s: s.position)]
    assert steps[0] == "entered"
    assert (
        steps.index("exit_denied") < steps.index("recovery_recorded") < steps.index("exit_aborted") < steps.index("exit_completed")
    )
    assert steps[-1] == "drained"
    ledger = rows(url, Ledger)
    assert max(Counter(e.command_id for e in ledger).values()) == 1
    for name in families:
        orders = sorted((e.committed_at, e.commit_order) for e in ledger if e.contact_id == name)
        assert [order for _, order in orders] == ([1, 2] if name in FAMILIES else [1])


def no_rung_is_missing_or_doubled(url: str, sink: Sink, alert_id: str, killed: set[int]) -> None:
    """Every step was done, sent at least once and never more often than it was claimed, and late ones say so.

    A step whose sender was killed is claimed once more when the lease is over, or covered by a later one then.
    """
    steps = [step for step in rows(url, AlertStep) if step.alert_id == alert_id]
    arrived = Counter(arrival.key for arrival in sink.at("/"))
    sends = {(step.channel, step.n): step for step in steps if step.action == "send"}
    assert sorted(sends) == [("ops", 1), *(("superadmin_whatsapp", n) for n in ATTEMPTS)]
    for name, step in sends.items():
        assert step.outcome == "sent" or (step.outcome == "merged" and step.late), name
        assert (step.outcome == "sent") <= arrived[step.step_id] <= step.tries <= 1 + (step.n in killed), name
    levels = sorted((s for s in steps if s.action != "send"), key=lambda s: s.due_at)
    assert [(s.action, s.outcome) for s in levels] == [(a, "done") for a in ("raise_warning", "raise_high", "enter_safe_mode")]
    for step in steps:
        assert step.late == (step.done_at - step.due_at > LATE), (step.step_key, step.outcome)


# --- a machine whose clock is wrong -------------------------------------------------------------------------------------


@pytest.mark.paced
@pytest.mark.story("S-PC-03-001")
@pytest.mark.story("S-PC-03-002")
def test_a_clock_that_is_stepped_by_an_hour_loses_no_step_and_sends_none_twice(tmp_path: Path) -> None:
    """Back and forward under a running process, back over a restart, forward over another one in the middle of a message."""
    url, off = f"sqlite:///{tmp_path / 'kora.db'}", tmp_path / "off"
    off.write_text("0")
    made = init(url)
    sink, pulse = Sink(), Pulse()
    with sink.running(), pulse.running(), SteppedServer(url, CLOCK_OFF_FILE=str(off), **FAST) as server:
        call = Caller(made["keys"]["tenant"], server)
        furnish(call, sink)
        began = time.monotonic()
        raised = call("POST", "/alerts", RAISED, 201)
        alert_id = raised["alert_id"]
        for step in ("-3600", "3600"):
            off.write_text(step)
            gone = shown(call, url) - datetime.fromisoformat(raised["raised_at"])
            assert timedelta(0) < gone < timedelta(minutes=time.monotonic() - began + 1)  # it goes by its own pace
            time.sleep(1)
        until("attempt two", lambda: len(attempts(sink)) == 2)
        assert 5 <= attempts(sink)[1].at - began <= 5 + EARLY_ENOUGH + pulse.still_s(began + 5)
        until("its answer", lambda: len(call("GET", f"/alerts/{alert_id}")["upcoming"]) == 5)

        def again(seconds: str) -> None:
            off.write_text(seconds)
            before = shown(call, url)
            server.kill()
            server.start()
            assert shown(call, url) >= before, "a restart never turns time back"

        again("-3600")
        held = sink.hold(lambda arrival: arrival.path == "/super")
        assert held.arrived.wait(60), "attempt three does not come"
        again("3600")
        held.go_on.set()
        ladder = until("the end of the ladder", lambda: (a := call("GET", f"/alerts/{alert_id}")) and not a["upcoming"] and a)
        again("0")
        soon = shown(call, url) + timedelta(minutes=2)
        until("two minutes later", lambda: shown(call, url) > soon)
        ladder = call("GET", f"/alerts/{alert_id}")
        assert call.state()["state"] == "safe_mode_active"
        assert milliseconds(call.state()["since"]) == milliseconds(ladder["safe_mode_at"])
    assert [a.body["attempt"] for a in attempts(sink)] == [1, 2, 3, 7]
    assert "atrasada" in attempts(sink)[-1].text
    assert len(sink.at("/ops")) == 1
    rungs = sorted((a for a in ladder["attempts"] if a["channel"] == "superadmin_whatsapp"), key=lambda a: a["n"])
    last = rungs[-1]["step_id"]
    assert [(a["n"], a["outcome"], a["merged_into"]) for a in rungs] == [
        (n, "sent", None) if n in (1, 2, 7) else (n, "merged", last) for n in ATTEMPTS
    ]
    assert [step["outcome"] for step in ladder["levels"]] == ["done"] * 3
    for step in [*ladder["attempts"], *ladder["levels"]]:
        assert late_as_it_was(step), step
    assert [a["late"] for a in rungs[2:]] == [True] * 5
    kora(url, "verify")


def shown(call: Caller, url: str) -> datetime:
    """The product's time: when it says that it heard a message that is sent right now."""
    name = f"w-{time.monotonic_ns()}"
    moment = datetime.now(UTC).isoformat()  # noqa: TID251  # the test is outside the product
    said = {"contact_id": "c-duda", "external_id": name, "event_type": "message", "payload": {"text": "Oi"}}
    call("POST", "/events", said | {"occurred_at": moment}, 202)
    (heard,) = (row for row in rows(url, InboxMessage) if row.external_id == name)
    found: datetime = heard.received_at
    return found


def attempts(sink: Sink) -> list[Arrival]:
    """The alert's messages to the superadmin."""
    return sink.at("/super")
