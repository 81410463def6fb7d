"""What happens in a world: families and machines send, people intervene, processes die, and at last all is well again.

Everything is drawn from the world's generator. Clients behave as our documentation asks of them: whoever gets no answer
sends the same again, to any node. `run` returns once nothing moves any more and what is left is visibly pending.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select

from app.domain.envelopes import sha256_hex
from app.errors import Conflict, KoraError
from app.store import holds, lane_acts, takeovers
from app.store.contingency import switch
from app.store.people import By
from app.store.tables import Appointment, Lane, Ticket, table
from tests.builders import contact, guardian, patient, tenant, therapist
from tests.simulation.check import Finding, findings
from tests.simulation.store import SharedStore, start_of_world
from tests.simulation.virtual import VirtualLoop, deterministic
from tests.simulation.world import AWAITS, CALM, STORMY, Node, SimClock, Weather, World

_APPOINTMENT, _LANE, _TICKET = table(Appointment), table(Lane), table(Ticket)
_VERSIONS = (
    select(_LANE.c.conversation_version, _LANE.c.guardian_version, _APPOINTMENT.c.version)
    .outerjoin_from(
        _LANE,
        _APPOINTMENT,
        and_(_APPOINTMENT.c.tenant_id == _LANE.c.tenant_id, _APPOINTMENT.c.appointment_id == bindparam("appointment_id")),
    )
    .where(_LANE.c.tenant_id == bindparam("tenant_id"), _LANE.c.contact_id == bindparam("contact_id"))
)
SAYINGS = ("oi", "CONFIRMAR", "quero falar com uma pessoa", "preciso remarcar", "obrigada", "ok")
ANSWER_S = 5.0
"""How long a client waits: it sends again while what it sent is still on its way through a slow database."""
ATTEMPTS_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much happens in one world."""

    tenants: int = 1
    contacts: int = 10
    nodes: int = 2
    sends: int = 24
    acts: int = 5
    crashes: int = 2
    bursts: int = 3
    seconds: float = 3.0
    weather: Weather = STORMY


SIZES = {"small": Size(), "large": Size(tenants=2, contacts=20, sends=100, acts=12, crashes=3, bursts=5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a world. `events` counts items sent and misfortunes; `digest` names the whole history."""

    seed: int
    events: int
    histories: int
    findings: list[Finding]
    notes: dict[str, int]
    trace: list[str]
    digest: str


def run(store: SharedStore, seed: int, size: Size = Size()) -> Outcome:
    """One world from its beginning to its end; the same seed and size give the same outcome."""
    loop = VirtualLoop()
    store.begin(size, partial(_clinics, size))
    try:
        with deterministic(loop, seed):
            return loop.run_until_complete(_story(store, loop, seed, size))
    finally:
        store.end()
        loop.close()


async def _story(store: SharedStore, loop: VirtualLoop, seed: int, size: Size) -> Outcome:
    rng = random.Random(seed)
    world = World(seed=seed, store=store, rng=rng, clock=SimClock(loop), weather=size.weather, with_redis=rng.random() < 0.7)
    families = [(f"t{t}", f"c{c}") for t in range(size.tenants) for c in range(size.contacts)]
    try:
        for _ in range(size.nodes):
            world.start_node()
        await asyncio.gather(*_script(world, size, families))
        await _settle(world)
        found, digest = store.run(findings, world), store.run(_digest)
    finally:
        everyone = (*world.nodes, *world.buried)
        for node in everyone:
            node.die()
        for node in everyone:
            await node.bury()
    return Outcome(
        seed=seed,
        events=len(world.journal) + sum(world.notes.values()),
        histories=len(families),
        findings=found,
        notes=dict(world.notes),
        trace=world.trace,
        digest=digest,
    )


def _script(world: World, size: Size, families: list[tuple[str, str]]) -> list[Awaitable[None]]:
    """Everything that will happen, each at its time."""
    rng = world.rng
    clients = {key: _Client(world, *key) for key in families}
    script: list[Callable[[], Awaitable[None]]] = [clients[rng.choice(families)].something for _ in range(size.sends)]
    script += [_act(world, *rng.choice(families)) for _ in range(size.acts)]
    script += [_misfortune(world) for _ in range(size.crashes)]
    if rng.random() < 0.5:
        script.append(_rush(world, clients))
    moments = [rng.uniform(0, size.seconds) for _ in range(size.bursts)]  # things meet when they happen at the same time
    return [_at(rng.choice(moments) + rng.uniform(0, 0.03), happening) for happening in script]


async def _at(seconds: float, happening: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await happening()


def _clinics(size: Size, conn: Connection) -> None:
    now = start_of_world()
    for t in range(size.tenants):
        tid = tenant(conn, tenant_id=f"t{t}", now=now)
        therapist(conn, tenant_id=tid, now=now)
        for c in range(size.contacts):
            contact(conn, tenant_id=tid, contact_id=f"c{c}", phone=f"+55119876{t:02}{c:03}", now=now)
            patient(conn, tenant_id=tid, patient_id=f"p{c}", now=now)
            guardian(conn, tenant_id=tid, patient_id=f"p{c}", contact_id=f"c{c}", now=now)


class _Client:
    """One family and the machine that speaks for it: sends until it has its answer, and remembers every answer."""

    def __init__(self, world: World, tenant_id: str, contact_id: str) -> None:
        self._world, self._tenant, self._contact = world, tenant_id, contact_id
        self._numbers = self._orders()
        self._orders_itself = world.rng.random() < 0.4
        self._sent = 0
        self._known: list[dict[str, Any]] = []

    def _orders(self) -> list[int]:
        """The source's own commit orders: near their place, now and then one that never comes."""
        rng = self._world.rng
        numbers = [n for n in range(1, 60) if rng.random() > 0.03]
        for i in range(len(numbers) - 1):
            if rng.random() < 0.3:
                numbers[i], numbers[i + 1] = numbers[i + 1], numbers[i]
        return numbers

    async def wants(self, hour: int) -> None:
        """Ask for a new appointment at a given hour of tomorrow."""
        await self._send("command", [self._command(hour=hour)])

    async def something(self) -> None:
        """Send the next thing: a command, a repeated one, a batch, or a message."""
        rng = self._world.rng
        dice = rng.random()
        if dice < 0.2:
            await self._send("event", [self._message()])
        elif dice < 0.35 and self._known:
            await self._send("command", [rng.choice(self._known)])
        else:
            await self._send("command", [self._command() for _ in range(rng.choice((1, 1, 1, 2, 4)))])

    def _message(self) -> dict[str, Any]:
        self._sent += 1
        name = f"m-{self._contact}-{self._sent}"
        return {
            "contact_id": self._contact,
            "event_type": "message",
            "channel": "whatsapp",
            "external_id": name,
            "occurred_at": self._world.clock.now().isoformat(),
            "payload": {"text": self._world.rng.choice(SAYINGS)},
        }

    def _command(self, hour: int | None = None) -> dict[str, Any]:
        rng, now = self._world.rng, self._world.clock.now()
        self._sent += 1
        name = f"{self._tenant}-{self._contact}-{self._sent}"
        number = self._contact.removeprefix("c")
        start = start_of_world() + timedelta(hours=24 + (rng.randrange(4) if hour is None else hour))
        slot = {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}
        mine = f"a{number}"
        said, permitted, version = self._world.store.run(_versions, self._tenant, self._contact, mine)
        wanted = mine if not self._known else f"new-{name}"
        book = ("schedule", {"appointment_id": wanted, "therapist_id": "t-ana", **slot}, {"confirmed_by_contact": True})
        kind, payload, fields = (
            book
            if not self._known or hour is not None
            else rng.choice(
                (
                    ("follow_up", {"text": "tudo bem?"}, {}),
                    book,
                    ("reschedule", {"appointment_id": mine, **slot}, {"entity_version": version}),
                    ("cancel", {"appointment_id": mine}, {"entity_version": version}),
                )
            )
        )
        raw = {
            "command_id": f"k-{name}",
            "contact_id": self._contact,
            "command_type": kind,
            "patient_id": f"p{number}",
            "requested_by": rng.choice(("ai", "ai", "human")),
            "confirmed_by_contact": rng.random() < 0.8,
            "guardian_version": permitted if rng.random() < 0.95 else 1,
            "conversation_version": said if rng.random() < 0.9 else 1,
            "as_of": now.isoformat(),
            "occurred_at": (now - timedelta(seconds=rng.choice((0, 0, 0, 0, 0, 60, 10_000)))).isoformat(),
            "idempotency_key": f"key-{name}",
            "payload": payload,
            **fields,
        }
        if self._orders_itself and self._numbers:
            raw["commit_order"] = self._numbers.pop(0)
        self._known.append(raw)
        return raw

    async def _send(self, kind: str, raws: list[dict[str, Any]]) -> None:
        """Until there is an answer: the same bytes again, to whichever node answers."""
        world = self._world
        for _ in range(ATTEMPTS_MAX):
            alive = world.alive()
            if alive:
                node = world.rng.choice(alive)
                accept = node.intake.commands if kind == "command" else node.intake.events
                try:
                    async with asyncio.timeout(ANSWER_S):
                        receipts = await accept(self._tenant, raws)
                except (TimeoutError, KoraError):
                    world.note("no_answer")
                else:
                    for raw, receipt in zip(raws, receipts, strict=True):
                        self._remember(kind, raw, receipt)
                    return
            await asyncio.sleep(world.rng.uniform(0.1, 1))
        world.broken_promises.append(f"{self._tenant} {self._contact}: no answer to {kind} after {ATTEMPTS_MAX} attempts")

    def _remember(self, kind: str, raw: dict[str, Any], receipt: Any) -> None:
        """The first answer binds: the same thing sent again must get the same place."""
        name = str(raw.get("idempotency_key") or raw["external_id"])
        answer = (receipt.item_id, str(receipt.kind), receipt.number)
        known = self._world.journal.setdefault((self._tenant, name), answer)
        if known[0] != answer[0] or (known[2] is not None and answer[2] is not None and known[2] != answer[2]):
            self._world.broken_promises.append(f"{kind} {name} was answered {known} and later {answer}")


def _versions(conn: Connection, tenant_id: str, contact_id: str, appointment_id: str) -> tuple[int, int, int]:
    """What an orchestrator has read before it asks: conversation, permissions and appointment."""
    asked = {"tenant_id": tenant_id, "contact_id": contact_id, "appointment_id": appointment_id}
    said, permitted, version = conn.execute(_VERSIONS, asked).one()
    return said, permitted, version or 1


def _rush(world: World, clients: "dict[tuple[str, str], _Client]") -> Callable[[], Awaitable[None]]:
    """Everybody wants the same hour at the same time."""

    async def go() -> None:
        world.note("rush")
        hour = 5 + world.rng.randrange(3)
        await asyncio.gather(*(_at(world.rng.uniform(0, 0.05), partial(c.wants, hour)) for c in clients.values()))

    return go


# --- people and misfortunes ---------------------------------------------------------------------------------------------


def _act(world: World, tenant_id: str, contact_id: str) -> Callable[[], Awaitable[None]]:
    """A person at the console does one thing; what has moved on since is answered with a conflict."""
    kind = world.rng.choice(("pause", "skip", "retry", "contingency", "contingency", "hold", "takeover", "permission"))

    async def go() -> None:
        world.note(kind)
        by = By(actor="user:u1", now=world.clock.now(), origin="console")
        run = _quiet(world)
        if kind == "pause":
            run(lane_acts.pause, tenant_id, contact_id, by, "olhar")
            run(lane_acts.single_step, tenant_id, contact_id, by, "um")
            await asyncio.sleep(world.rng.uniform(0, 2))
            run(lane_acts.release, tenant_id, contact_id, by, "segue")
        elif kind == "skip":
            number = world.store.run(_front, tenant_id, contact_id)
            await asyncio.sleep(world.rng.uniform(0, 0.01))
            run(lane_acts.skip, tenant_id, contact_id, by, "pular", number=number, node_id="console")
        elif kind == "retry":
            run(lane_acts.retry, tenant_id, contact_id, by, "agora")
        elif kind == "hold":
            run(holds.hold, tenant_id, "schedule", by, "sistema da clínica")
            await asyncio.sleep(world.rng.uniform(0, 2))
            run(holds.resume, tenant_id, "schedule", by, "voltou")
        elif kind == "takeover":
            for ticket_id in world.store.run(_open_tickets, tenant_id):
                run(takeovers.close, tenant_id, ticket_id, by, "resolvido")
        elif kind == "permission":
            run(_permission_changes, tenant_id, contact_id)
        else:
            run(switch, tenant_id, "whatsapp", active=True, reason="canal fora", by=by)
            await asyncio.sleep(world.rng.uniform(0, 2))
            run(switch, tenant_id, "whatsapp", active=False, reason="voltou", by=by)

    return go


def _quiet(world: World) -> Callable[..., None]:
    def run(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            world.store.run(fn, *args, **kwargs)
        except Conflict:
            world.note("act_came_too_late")

    return run


def _front(conn: Connection, tenant_id: str, contact_id: str) -> int:
    where = (_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    return int(conn.execute(select(_LANE.c.last_committed).where(*where)).scalar_one()) + 1


def _open_tickets(conn: Connection, tenant_id: str) -> list[str]:
    where = (_TICKET.c.tenant_id == tenant_id, _TICKET.c.kind == "takeover", _TICKET.c.closed_at.is_(None))
    return list(conn.execute(select(_TICKET.c.ticket_id).where(*where).order_by(_TICKET.c.ticket_id)).scalars())


def _permission_changes(conn: Connection, tenant_id: str, contact_id: str) -> None:
    where = (_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    conn.execute(_LANE.update().where(*where).values(guardian_version=_LANE.c.guardian_version + 1))


def _misfortune(world: World) -> Callable[[], Awaitable[None]]:
    """A process dies at one of its next awaits and is started again, or Redis goes away, forgets, and comes back."""
    kind = world.rng.choice(("crash", "crash", "crash", "redis_down", "redis_flushed"))

    async def go() -> None:
        if kind == "crash":
            alive = world.alive()
            if not alive:
                return
            node = world.rng.choice(alive)
            node.dies_at = node.steps + world.rng.randrange(1, 25)
            node.dies_in = world.rng.choice((None, *AWAITS))
            await asyncio.sleep(world.rng.uniform(0.2, 3))
            _replace(world, node)
            return
        world.note(kind)
        world.redis.flush()
        if kind == "redis_down":
            world.redis.down = True
            await asyncio.sleep(world.rng.uniform(0.5, 4))
            world.redis.down = False

    return go


def _replace(world: World, node: Node) -> None:
    """The process manager starts a process again that has died (or that gave up with a defect)."""
    if node not in world.nodes:
        return  # another misfortune had it replaced already
    node.die()
    world.nodes.remove(node)
    world.buried.append(node)
    world.start_node()


# --- the end ------------------------------------------------------------------------------------------------------------


async def _settle(world: World) -> None:
    """No more misfortunes: everything that can be decided is, and what may wait has waited for as long as it may."""
    world.weather = CALM
    world.redis.down = False
    for node in list(world.nodes):
        if not node.alive or node.supervisor.stop.is_set():
            _replace(world, node)
    quiet, before = 0, None
    for _ in range(400):
        await asyncio.sleep(0.6)
        state = world.store.run(_progress)
        quiet = quiet + 1 if state == before else 0
        before = state
        if quiet >= 2 and state[0] == 0:
            return
        if quiet >= 3:
            world.clock.skip(600)  # gaps, leases and locks run out
            quiet = 0
    world.broken_promises.append(f"the world does not come to rest: {before}")


def _progress(conn: Connection) -> tuple[int, ...]:
    """(items that still wait, places decided, messages heard)."""
    query = select(
        func.coalesce(func.sum(_LANE.c.waiting), 0) + func.coalesce(func.sum(_LANE.c.unheard), 0),
        func.coalesce(func.sum(_LANE.c.last_committed), 0),
        func.coalesce(func.sum(_LANE.c.last_sequence), 0),
    )
    return tuple(int(n) for n in conn.execute(query).one())


def _digest(conn: Connection) -> str:
    """Names the whole history: every lane's chain of hashes."""
    rows = conn.execute(
        select(_LANE.c.tenant_id, _LANE.c.contact_id, _LANE.c.last_committed, _LANE.c.chain_hash).order_by(
            "tenant_id", "contact_id"
        )
    )
    return sha256_hex(repr([tuple(row) for row in rows]))
