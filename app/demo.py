"""The demo: three clinics with families, permissions and an agenda, and traffic that never ends.

Tenants, logins and keys are made directly (there is no key yet to make them with); everything else goes through the public
HTTP API, as an orchestrator and a provider would do it. Starting again on the same database adds nothing twice.
"""

import asyncio
import random
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx
import structlog
from sqlalchemy import Connection

from app.bootstrap import Services
from app.clock import Clock, SystemClock
from app.credentials import hash_password, new_api_key
from app.ids import new_id
from app.simulate import Api, Journal, Report, Webhooks
from app.simulate.families import Agenda, Family, Storyteller
from app.simulate.lines import Lines
from app.store import accounts

log = structlog.get_logger("app.demo")

PASSWORD: Final = "demo-koraos-2026"  # noqa: S105  # printed at the start; the demo refuses to run in production
KEY_NAME: Final = "demo"
BURST_PER_MIN: Final = 18.0
"""The plan's peak for one clinic."""
CALM_PER_MIN: Final = 7.0
BURST_S: Final = 25.0
CALM_S: Final = 35.0
GAP_S: Final = 25.0
RECEPTION_EVERY_S: Final = 20.0
HANDLED_AFTER_S: Final = 120.0
CONNECTIONS: Final = 32
"""Of the traffic to the server, all clinics together."""


@dataclass(frozen=True, slots=True)
class Clinic:
    """One demo clinic; `families` are pairs of guardian and child."""

    slug: str
    name: str
    timezone: str
    therapists: tuple[str, ...]
    families: tuple[tuple[str, str], ...]
    area: str
    """Area code of its phone numbers."""

    @property
    def number(self) -> str:
        """Its Cloud API number id."""
        return f"demo-number-{self.slug}"


CLINICS: Final = (
    Clinic(
        "aurora",
        "Clínica Aurora",
        "America/Sao_Paulo",
        ("Ana Ribeiro", "Caio Teles", "Denise Prado", "Elisa Moura"),
        (
            ("Maria Souza", "Pedro"), ("Juliana Alves", "Lara"), ("Rafael Lima", "Davi"), ("Camila Rocha", "Helena"),
            ("Patrícia Nunes", "Theo"), ("Bruno Castro", "Alice"), ("Sônia Freitas", "Miguel"), ("Larissa Pinto", "Bento"),
            ("Fernanda Dias", "Clara"), ("Marcos Vieira", "Noah"), ("Aline Barros", "Luísa"), ("Tatiane Melo", "Gael"),
        ),
        "11",
    ),
    Clinic(
        "ipe",
        "Espaço Ipê",
        "America/Sao_Paulo",
        ("Fábio Antunes", "Gisele Couto", "Heitor Sales"),
        (
            ("Renata Campos", "João"), ("Débora Reis", "Isis"), ("Carlos Moraes", "Enzo"), ("Vanessa Porto", "Cecília"),
            ("Simone Aguiar", "Caleb"), ("Priscila Matos", "Maya"), ("Rodrigo Farias", "Ravi"), ("Elaine Torres", "Aurora"),
            ("Luciana Braga", "Otto"), ("Daniela Cunha", "Liz"),
        ),
        "31",
    ),
    Clinic(
        "mare",
        "Instituto Maré",
        "America/Recife",
        ("Inês Cavalcanti", "Jorge Pessoa", "Kátia Lins"),
        (
            ("Josefa Lira", "Samuel"), ("Edna Bezerra", "Sofia"), ("Severino Melo", "Ian"), ("Rosângela Paz", "Eloá"),
            ("Gabriela Luz", "Caetano"), ("Ivone Guerra", "Nina"), ("Paulo Acioli", "Levi"), ("Marta Tavares", "Flora"),
            ("Cícera Ramos", "Anthony"), ("Lúcia Barreto", "Maitê"),
        ),
        "81",
    ),
)  # fmt: skip


# --- tenants, logins, keys ----------------------------------------------------------------------------------------------


async def prepare(services: Services) -> dict[str, str]:
    """Make what is missing of tenants and logins, and one fresh key per clinic; returns keys by slug."""
    password_hash = await asyncio.to_thread(hash_password, PASSWORD)
    return await services.db.write(_prepare, password_hash, services.clock.now())


def _prepare(conn: Connection, password_hash: str, now: datetime) -> dict[str, str]:
    keys = {}
    tenants = {clinic.slug: _tenant(conn, clinic, now) for clinic in CLINICS}
    for row in accounts.list_keys(conn):
        if row.name == KEY_NAME and row.revoked_at is None and row.tenant_id in tenants.values():
            accounts.revoke_key(conn, row.key_id, now)
    for slug, tenant_id in tenants.items():
        key_id, token, secret_hash = new_api_key()
        scopes = "intake read operate admin"
        accounts.create_key(
            conn, key_id=key_id, secret_hash=secret_hash, name=KEY_NAME, tenant_id=tenant_id, scopes=scopes, now=now
        )
        keys[slug] = token
    for email, name, role, slugs in LOGINS:
        if accounts.find_user_by_email(conn, email) is None:
            accounts.create_user(
                conn,
                user_id=new_id(),
                email=email,
                name=name,
                role=role,
                password_hash=password_hash,
                tenant_ids=[tenants[s] for s in slugs],
                now=now,
            )
    return keys


LOGINS: Final = (
    ("super@demo.local", "Sara (superadmin)", "superadmin", ()),
    ("gestao@demo.local", "Gil (gestão)", "manager", ("aurora", "ipe")),
    ("recepcao@demo.local", "Rita (recepção)", "secretary", ("aurora",)),
)


def _tenant(conn: Connection, clinic: Clinic, now: datetime) -> str:
    known = accounts.find_tenant(conn, clinic.slug)
    if known is not None:
        return str(known.tenant_id)
    tenant_id = new_id()
    accounts.create_tenant(conn, tenant_id=tenant_id, slug=clinic.slug, name=clinic.name, timezone=clinic.timezone, now=now)
    return tenant_id


# --- families and agenda ------------------------------------------------------------------------------------------------


async def seed(url: str, keys: Mapping[str, str], *, clock: Clock | None = None) -> None:
    """Families, permissions, therapists, settings and an agenda of a week, through the HTTP API with `keys` by slug."""
    clock = clock or SystemClock()
    async with Lines(CONNECTIONS) as lines:
        for clinic in CLINICS:
            api = Api(lines, url, keys[clinic.slug], Report(), Journal(None), stop=asyncio.Event())
            await _seed(api, clinic, clock)


async def _seed(api: Api, clinic: Clinic, clock: Clock) -> None:
    already = await api.get("/contacts?limit=1")
    await api.put(f"/settings/{clinic.slug}", _settings(clinic))
    if already is not None and already["items"]:
        return
    for name in clinic.therapists:
        await api.put(f"/therapists/{_id('t', name)}", {"name": name})
    families = families_of(clinic)
    for family, (_guardian, child) in zip(families, clinic.families, strict=True):
        await api.put(f"/contacts/{family.contact_id}", {"phone": family.phone, "name": family.name})
        await api.put(f"/patients/{family.patient_id}", {"name": child})
        if family.permitted:
            await _grant(api, family.patient_id, family.contact_id, primary=True)
    # a grandmother who writes a lot and may nothing, and a father who may schedule but not cancel
    await api.put("/contacts/c-avo", {"phone": f"+55{clinic.area}988880001", "name": f"Avó de {clinic.families[0][1]}"})
    await api.put("/contacts/c-pai", {"phone": f"+55{clinic.area}988880002", "name": f"Pai de {clinic.families[1][1]}"})
    await _grant(api, families[1].patient_id, "c-pai", primary=False, cancel=False)
    await _book(api, clinic, families, clock)


async def _grant(api: Api, patient_id: str, contact_id: str, *, primary: bool, cancel: bool = True) -> None:
    await api.put(
        f"/patients/{patient_id}/guardians/{contact_id}",
        {
            "is_primary": primary,
            "can_schedule": True,
            "can_cancel": cancel,
            "verified_by": "recepcao",
            "verification_method": "in_person",
            "reason": "cadastro",
        },
    )


async def _book(api: Api, clinic: Clinic, families: list[Family], clock: Clock) -> None:
    """Two appointments for each permitted family within the next seven days, in the clinic's hours."""
    zone = ZoneInfo(clinic.timezone)
    today = clock.now().astimezone(zone).replace(hour=8, minute=0, second=0, microsecond=0)
    therapists = [_id("t", name) for name in clinic.therapists]
    turn = 0
    for family in (f for f in families if f.permitted):
        contact = await api.get(f"/contacts/{family.contact_id}")
        if contact is None:
            continue
        for visit in (1, 2):
            start = today + timedelta(days=1 + turn % 7, hours=(turn // 7) % 10)
            now = _rfc3339(clock.now())
            payload = {
                "appointment_id": f"a-{family.patient_id[2:]}-{visit}",
                "therapist_id": therapists[turn % len(therapists)],
                "start": _rfc3339(start),
                "end": _rfc3339(start + timedelta(minutes=50)),
            }
            await api.command(
                {
                    "contact_id": family.contact_id,
                    "conversation_id": f"conv-{family.contact_id}",
                    "command_type": "schedule",
                    "patient_id": family.patient_id,
                    "requested_by": "human",
                    "confirmed_by_contact": True,
                    "guardian_version": contact["guardian_version"],
                    "conversation_version": contact["conversation_version"],
                    "as_of": now,
                    "occurred_at": now,
                    "idempotency_key": f"demo:{payload['appointment_id']}",
                    "correlation_id": f"demo-{payload['appointment_id']}",
                    "payload": payload,
                }
            )
            if visit == 1:
                family.appointment_id = payload["appointment_id"]
            turn += 1


def families_of(clinic: Clinic) -> list[Family]:
    """The clinic's families, always the same: every sixth without any permission, some whose source numbers its commands."""
    return [
        Family(
            contact_id=_id("c", guardian),
            patient_id=_id("p", child),
            phone=f"+55{clinic.area}9{71_110_000 + 37 * n:08d}",
            name=guardian,
            permitted=n % 6 != 5,
            numbers_itself=n in (2, 4, 8),
        )
        for n, (guardian, child) in enumerate(clinic.families)
    ]


def _settings(clinic: Clinic) -> dict[str, Any]:
    return {
        "timezone": clinic.timezone,
        "phone": f"+55 {clinic.area} 3000-0000",
        "whatsapp": {"app_secret": _app_secret(clinic), "verify_token": "demo-verify", "phone_number_id": clinic.number},
        "contacts_channel": "simulator:",
        "channels": {
            "ops": "simulator:plantao",
            "ops_chat": "simulator:chat-operacao",
            "secretary": "simulator:recepcao",
            "manager": "simulator:gestao",
            "superadmin_whatsapp": "simulator:superadmin",
            "superadmin_sms": "simulator:superadmin-sms",
            "email": "simulator:email",
        },
    }


def _app_secret(clinic: Clinic) -> str:
    return f"demo-app-secret-{clinic.slug}"


def _id(prefix: str, name: str) -> str:
    """`c-maria-souza` from a name."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return f"{prefix}-{'-'.join(plain.lower().split())}"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(ZoneInfo("UTC")).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- traffic ------------------------------------------------------------------------------------------------------------


async def traffic(url: str, keys: Mapping[str, str], stop: asyncio.Event, *, clock: Clock | None = None) -> None:
    """Each clinic at its pace, whatever the time of day, until `stop`: calm minutes and bursts of 18 a minute."""
    clock = clock or SystemClock()
    async with Lines(CONNECTIONS) as lines, asyncio.TaskGroup() as group:
        for clinic in CLINICS:
            api = Api(lines, url, keys[clinic.slug], Report(), Journal(None), stop=stop)
            group.create_task(_day(api, clinic, stop, clock))
            group.create_task(_reception(api, stop, clock))


async def _day(api: Api, clinic: Clinic, stop: asyncio.Event, clock: Clock) -> None:
    dice = random.Random()
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    agenda = Agenda([_id("t", name) for name in clinic.therapists], midnight + timedelta(days=8 + dice.randrange(60)))
    hooks = Webhooks(tenant=clinic.slug, app_secret=_app_secret(clinic), phone_number_id=clinic.number, share=0.6)
    teller = Storyteller(api, agenda, dice, clock, new_id()[:8], hooks=hooks, gap_s=GAP_S)
    families = families_of(clinic)
    for family in families:
        if family.permitted:
            family.appointment_id = f"a-{family.patient_id[2:]}-1"
    running: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not stop.is_set():
        burst = (loop.time() - began) % (BURST_S + CALM_S) < BURST_S
        free = [f for f in families if not f.busy]
        if free:
            family = dice.choice(free)
            family.busy = True
            task = asyncio.create_task(_step(teller, family))
            running.add(task)
            task.add_done_callback(running.discard)
        # a step is about one and a half items
        pause_s = dice.expovariate((BURST_PER_MIN if burst else CALM_PER_MIN) / 60 / 1.5)
        await _stopped_within(stop, min(pause_s, 15.0))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _reception(api: Api, stop: asyncio.Event, clock: Clock) -> None:
    """The secretary who gives conversations back to the robot, so that the day goes on."""
    while not await _stopped_within(stop, RECEPTION_EVERY_S):
        tickets = await api.get("/tickets?limit=50")
        for ticket in (tickets or {}).get("items", []):
            opened = datetime.fromisoformat(str(ticket.get("opened_at")).replace("Z", "+00:00"))
            old = (clock.now() - opened).total_seconds() > HANDLED_AFTER_S * clock.scale
            if ticket.get("kind") == "takeover" and ticket.get("state") != "resolved" and old:
                number = ticket.get("takeover_id") or ticket.get("ticket_id")
                await api.post(f"/takeovers/{number}/start", {})
                await api.post(f"/takeovers/{number}/close", {"reason": "resolvido por telefone"})


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def _step(teller: Storyteller, family: Family) -> None:
    try:
        await teller.step(family)
    finally:
        family.busy = False


# --- beside the server --------------------------------------------------------------------------------------------------


async def sibling(services: Services) -> None:
    """What `kora demo` runs beside the server: prepare, seed, say where to look, then traffic until the end."""
    keys = await prepare(services)
    host = "127.0.0.1" if services.settings.host in ("0.0.0.0", "::") else services.settings.host  # noqa: S104  # compared only
    url = f"http://{host}:{services.settings.port}"
    await _until_up(url)
    await seed(url, keys, clock=services.clock)
    print(_banner(services.settings.public_url or url), flush=True)
    await traffic(url, keys, services.supervisor.stop, clock=services.clock)


async def _until_up(url: str) -> None:
    """Until the server beside us answers; the process ends by itself when it cannot start."""
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{url}/healthz", timeout=2)).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.05)


def _banner(url: str) -> str:
    logins = "\n".join(f"    {email:22} {role:11} {name}" for email, name, role, _ in LOGINS)
    return (
        f"\n  KoraOS Console (demo)   {url}\n\n  Logins, password {PASSWORD}:\n{logins}\n\n"
        f"  Simulated phone: {url}/phone      Stop with Ctrl-C.\n"
    )
