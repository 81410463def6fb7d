"""Thousands of requests drawn from our own OpenAPI description, good ones and broken ones, against a running server.

Whatever is sent: no 500, no hang, every failure is a problem document, every answer is one that the description promises;
and when it is over, the engine still works and `kora verify` finds nothing. `SOAK_CASES` asks for more of them.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Connection

from app.cli_evidence import first_key
from app.clock import SystemClock
from app.credentials import new_api_key
from app.domain.evidence_kinds import EvidenceKind
from app.domain.safe_mode import Checklist
from app.domain.signals import SIGNALS
from app.domain.states import CommandType
from app.store import accounts
from app.store.database import Database
from app.store.settings import DEFAULTS
from app.store.verify import verify
from tests.builders import Clinic, clinic
from tests.channels import payloads
from tests.conftest import prepare
from tests.server import ASK, Server

CASES: Final = int(os.environ.get("SOAK_CASES", "2000"))
"""Of the keys that may do everything; the keys that may do little get a fifth of it."""
HANG_S: Final = 20.0
"""No call may take longer, on the busiest machine."""
WAIT_S: Final = 0.02
"""What a case may wait for a result: the description allows half a minute, which would prove nothing more."""
LATE: Final = "/lane/ PUT-/api/v1/contingency /holds /erase mode/enter mode/recovery mode/exit PUT-/api/v1/settings".split()
"""What stops a contact's or a clinic's work comes last, in this order: before it, commands have their effects."""
OFTEN: Final = {"POST /api/v1/commands": 6, "POST /api/v1/events": 4}
"""Operations that take whole languages get more cases."""
FREE: Final = {"GET /healthz", "GET /readyz", "GET /api/v1/health"}
INTAKE: Final = {"POST /api/v1/events", "POST /api/v1/commands", "POST /api/v1/webhooks/alertmanager"}
"""What a key with the scope `intake` is for."""
ADMIN: Final = {
    "GET /api/v1/settings/{tenant}",
    "PUT /api/v1/settings/{tenant}",
    "GET /api/v1/contacts/{contact_id}/export",
    "POST /api/v1/contacts/{contact_id}/erase",
    "PUT /api/v1/signals/{signal}/thresholds",
    "POST /api/v1/safe-mode/enter",
    "POST /api/v1/channels/test",
    "POST /api/v1/drills/redis",
    "POST /api/v1/deferred/decision",
}
"""What a secretary's scopes (`read`, `operate`) are not enough for."""
PROVIDERS: Final = {
    "whatsapp": {"app_secret": "app-secret", "verify_token": "verify-me", "phone_number_id": payloads.PHONE_NUMBER_ID},
    "evolution": {"secret": "evolution-secret"},
    "uazapi": {"secret": "uazapi-secret"},
}
BODIES: Final[dict[str, list[Any]]] = {
    "whatsapp": [
        payloads.cloud(payloads.cloud_change([payloads.cloud_message()], [payloads.cloud_status()])),
        payloads.cloud(payloads.cloud_change([payloads.cloud_message("wamid.B", "CONFIRMAR")])),
    ],
    "evolution": [
        payloads.evolution(payloads.evolution_message()),
        payloads.evolution({"keyId": "3EB0A1", "status": "READ"}, "messages.update"),
    ],
    "uazapi": [payloads.uazapi()],
    "alertmanager": [payloads.ALERTMANAGER],
}
"""The description says nothing of what providers send: real bodies, one place of them changed."""
POOL_MAX: Final = 60
HARVESTED: Final = frozenset(
    """command_id event_id task_id ticket_id alert_id replay_id pack_id appointment_id drill_id correlation_id
    rev next_cursor""".split()
)
STRANGE: Final[list[Any]] = [
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1.5,
    "",
    "a\x00b",
    "x" * 5_000,
    "\ud800",
    "👩‍👧",
    "2026-02-30T25:00:00Z",
    [],
    {},
    [[[[]]]],
    {"": None, "a.b": [1]},
    [None, 7, "x"],
]
"""What a place of a provider's body is changed into."""


@dataclass
class Scene:
    """A clinic with a server, what its keys are, and what the answers have told of it."""

    server: Server
    ours: Clinic
    keys: dict[str, str]
    schema: Any
    session: requests.Session = field(default_factory=requests.Session)
    pool: dict[str, list[Any]] = field(default_factory=dict)
    found: dict[tuple[str, str], str] = field(default_factory=dict)
    """(operation, kind of fault) -> how it was met first."""
    statuses: Counter[int] = field(default_factory=Counter)
    cases: int = 0

    def __post_init__(self) -> None:
        """What everybody knows from the beginning."""
        self.session.trust_env = False
        self.pool |= {
            "tenant": [self.ours.slug, self.ours.tenant_id, self.ours.slug, "global"],
            "tenant_id": [self.ours.slug, self.ours.tenant_id],
            "contact_id": [self.ours.contact_id, self.ours.contact_id, "c-new"],
            "patient_id": [self.ours.patient_id],
            "therapist_id": [self.ours.therapist_id],
            "signal": list(SIGNALS),
            "act": ["run", "pause", "resume", "cancel"],
            "event": ["messages-upsert"],
            "rest": [PROVIDERS["uazapi"]["secret"]],
            "channel": ["whatsapp"],
            "severity": ["critical", "high", "info"],
            "guardian_version": [1],
            "conversation_version": [1],
            "number": [1, 2, 3],
            "commit_order": [1, 2, 3, 4, 7],
            "kind": [str(kind) for kind in EvidenceKind],
            "subject": [self.ours.contact_id],
            "confirm": ["c-new"],
            "command_type": [*(str(kind) for kind in CommandType), "*"],
            "filter": [{"state": ["manual_review_required"]}, {"contact_id": [self.ours.contact_id]}],
            "format": ["json", "csv"],
            "checklist": [dict.fromkeys(Checklist.__slots__, True)],
            "resolution": ["done_with_family"],
            "occurred_at": [SystemClock().now().isoformat()],
            **{name: ["mudou de ideia"] for name in "reason summary trigger dedup_key name note text action".split()},
        }

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a request that must succeed, with the clinic's whole key."""
        answer = ASK.request(method, self.server.url + path, json=body, headers=bearer(self.keys["clinic"]))
        assert answer.is_success, answer.text
        return answer.json()

    def command(self, hours: float, tenant_id: str | None = None) -> dict[str, Any]:
        """A command that applies as it is."""
        now = SystemClock().now()
        start = now + timedelta(hours=hours)
        return {
            "contact_id": self.ours.contact_id,
            "command_type": "schedule",
            "patient_id": self.ours.patient_id,
            "requested_by": "ai",
            "confirmed_by_contact": True,
            "guardian_version": 1,
            "conversation_version": 1,
            "as_of": now.isoformat(),
            "occurred_at": now.isoformat(),
            "payload": {
                "therapist_id": self.ours.therapist_id,
                "start": start.isoformat(),
                "end": (start + timedelta(minutes=50)).isoformat(),
            },
        } | ({"tenant_id": tenant_id} if tenant_id else {})

    def fault(self, case: Case, kind: str, sentence: str) -> None:
        """Remember the first of its kind."""
        self.found.setdefault((case.operation.label, kind), f"{case.operation.label} [{kind}]: {sentence}")

    def harvest(self, document: Any) -> None:
        """Ids that an answer names are used from now on."""
        if isinstance(document, list):
            for item in document[:20]:
                self.harvest(item)
        elif isinstance(document, dict):
            for name, value in document.items():
                if name in HARVESTED and isinstance(value, str | int):
                    known = self.pool.setdefault("cursor" if name == "next_cursor" else name, [])
                    if value not in known and len(known) < POOL_MAX:
                        known.append(value)
                else:
                    self.harvest(value)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def scene(sqlite_url: str) -> Iterator[Scene]:
    """Two clinics, keys of every kind, a furnished family, and a process that serves them."""
    keys: dict[str, str] = {}
    clinics: list[Clinic] = []

    def people(conn: Connection) -> None:
        now = SystemClock().now()
        clinics.extend(clinic(conn, tenant_id=tenant_id, now=now) for tenant_id in ("ten-sol", "ten-lua"))
        every = "intake read operate admin"
        ours, theirs = (c.tenant_id for c in clinics)
        wanted = {
            "clinic": (ours, every),
            "global": (None, every),
            "neighbour": (theirs, every),
            "intake": (ours, "intake"),
            "secretary": (ours, "read operate"),
        }
        for name, (tenant_id, scopes) in wanted.items():
            key_id, keys[name], secret_hash = new_api_key()
            accounts.create_key(
                conn, key_id=key_id, secret_hash=secret_hash, name=name, tenant_id=tenant_id, scopes=scopes, now=now
            )

    async def furnish(database: Database) -> None:
        await database.write(people)
        await first_key(database)

    prepare(sqlite_url, furnish)
    with Server(sqlite_url) as server:
        described = ASK.get(f"{server.url}/schema/openapi.json").json()
        schema = schemathesis.openapi.from_dict(described)
        schema.config.generation.update(with_security_parameters=False)
        made = Scene(server, clinics[0], keys, schema)
        made.api("PUT", "/api/v1/settings/sol", PROVIDERS)
        for body in (made.command(30), {"command_type": "dance"}, made.command(31) | {"guardian_version": 7}):
            made.harvest(made.api("POST", "/api/v1/commands?wait=10", body))
        yield made
        made.session.close()


# --- drawing ------------------------------------------------------------------------------------------------------------


def cases(operation: Any) -> "st.SearchStrategy[Case]":
    """Requests of one operation: three of four as described, one against it where something can be."""
    modes = [GenerationMode.POSITIVE] * 3
    if operation.query or operation.body:
        modes.append(GenerationMode.NEGATIVE)
    return st.sampled_from(modes).flatmap(lambda mode: operation.as_strategy(generation_mode=mode))


def acquaint(scene: Scene, case: Case, dice: random.Random) -> None:
    """Make a drawn request one about people and things that exist, mostly."""
    label = case.operation.label
    _put_known(scene, case.path_parameters, dice)
    if "/evidence" in label and case.path_parameters:
        (name,) = case.path_parameters
        case.path_parameters[name] += dice.choice(("", ".json", ".zip"))
    if isinstance(case.query, dict):
        _put_known(scene, case.query, dice)
        wait = case.query.get("wait")
        if isinstance(wait, int | float) and wait > WAIT_S:
            case.query["wait"] = WAIT_S
    if isinstance(case.body, dict):
        items = [item for name in ("commands", "events") if isinstance(some := case.body.get(name), list) for item in some]
        for part in (case.body, *items):
            if isinstance(part, dict):
                _put_known(scene, part, dice)
        commands: Any = case.body.get("commands")
        if isinstance(commands, list) and dice.random() < 0.5:
            commands.append(scene.command(dice.randrange(24, 2_000)))
        if label.startswith("PUT /api/v1/settings"):
            name = dice.choice(sorted(DEFAULTS))
            case.body = {name: dice.choice([DEFAULTS[name], *STRANGE])}
        if "safe-mode/enter" in label or label == "POST /api/v1/alerts":
            case.body["tenant_id"] = scene.ours.slug  # a global key would stop the neighbour, too, which has to work at the end
    elif label.startswith("POST /api/v1/webhooks/"):
        provider = label.split("/")[4]
        document = _altered(dice.choice(BODIES[provider]), dice)
        case.body, case.media_type = b"{" if dice.random() < 0.1 else document, "application/json"


def _put_known(scene: Scene, part: dict[str, Any], dice: random.Random) -> None:
    """What exists in the places of ids, three times of four; a tenant nearly always, or else there is little but 403."""
    for name in sorted(set(part) & scene.pool.keys()):
        if dice.random() < (0.9 if name in ("tenant", "tenant_id") else 0.75):
            part[name] = dice.choice(scene.pool[name])


def _altered(document: Any, dice: random.Random) -> Any:
    """A document as it is, or with one place changed or left out."""
    if dice.random() < 0.2:
        return document
    if isinstance(document, dict | list) and document and dice.random() < 0.85:
        copy: Any = document.copy()
        place: Any = dice.choice(sorted(document)) if isinstance(document, dict) else dice.randrange(len(document))
        if dice.random() < 0.1:
            del copy[place]
        else:
            copy[place] = _altered(document[place], dice)
        return copy
    return dice.choice(STRANGE)


# --- sending ------------------------------------------------------------------------------------------------------------


def _signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """What the providers add to their requests."""
    if "/webhooks/" in (request.url or "") and "alertmanager" not in (request.url or ""):
        body: Any = request.body or b""
        raw: bytes = body.encode() if isinstance(body, str) else body
        request.headers["X-Hub-Signature-256"] = payloads.sign(PROVIDERS["whatsapp"]["app_secret"], raw)
        request.headers["X-Evolution"] = PROVIDERS["evolution"]["secret"]
        request.headers["X-Uazapi"] = PROVIDERS["uazapi"]["secret"]
    return request


def ask(scene: Scene, case: Case, key: str, *, signed: bool = True) -> Response | None:
    """Send one case and judge its answer; None when there was none in time."""
    scene.cases += 1
    scene.session.auth = _signed if signed else None
    try:
        answer = case.call(
            base_url=scene.server.url, session=scene.session, headers=bearer(key), timeout=HANG_S, allow_redirects=False
        )
    except requests.RequestException as error:
        scene.fault(case, "no answer", f"{error!r} to {case!r}")
        return None
    scene.statuses[answer.status_code] += 1
    sent = answer.request
    told = f"{answer.status_code} {answer.content[:300]!r} to {sent.method} {sent.url} {sent.body!r:.400}"
    try:
        case.validate_response(
            answer,
            checks=[
                status_code_conformance,
                content_type_conformance,
                response_headers_conformance,
                response_schema_conformance,
            ],
        )
    except FailureGroup as group:
        for failure in group.exceptions:
            scene.fault(case, f"{failure.title} {answer.status_code}", f"{failure.message[:300]}\n    {told}")
    described = case.operation.definition.raw["responses"].get(str(answer.status_code), {}).get("content", {})
    kind = answer.headers.get("content-type", [""])[0].split(";")[0]
    if kind not in described:
        scene.fault(case, f"undescribed content {answer.status_code}", f"{kind!r} is not in {sorted(described)}: {told}")
    if answer.status_code >= 400:
        _judge_problem(scene, case, answer, told)
    elif kind == "application/json":
        scene.harvest(answer.json())
    return answer


def _judge_problem(scene: Scene, case: Case, answer: Response, told: str) -> None:
    """RFC 9457, and never our own fault."""
    if answer.status_code >= 500:
        scene.fault(case, f"{answer.status_code}", told)
    if answer.headers.get("content-type", [""])[0] != "application/problem+json":
        scene.fault(case, f"no problem document {answer.status_code}", told)
        return
    body = answer.json()
    if body.get("status") != answer.status_code or not body.get("title") or not body.get("detail"):
        scene.fault(case, f"bad problem document {answer.status_code}", told)


def run(scene: Scene, count: int, send: Callable[[Case, random.Random], None]) -> None:
    """About so many cases, spread over every operation, the same ones every time."""
    operations = [result.ok() for result in scene.schema.get_all_operations()]
    operations.sort(key=lambda operation: [words in operation.label.replace(" ", "-") for words in reversed(LATE)])
    share = count / sum(OFTEN.get(operation.label, 1) for operation in operations)
    for operation in operations:

        @settings(
            max_examples=max(2, round(share * OFTEN.get(operation.label, 1))),
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(operation), seed=st.integers(0, 2**32))
        def some(case: Case, seed: int) -> None:
            dice = random.Random(seed)
            acquaint(scene, case, dice)
            send(case, dice)

        some()


def _all_faults(scene: Scene) -> str:
    return "\n".join(scene.found.values()) + f"\n{scene.server.tail(2_000) if scene.found else ''}"


# --- the tests ----------------------------------------------------------------------------------------------------------


def test_whatever_the_description_allows_is_answered_as_described_and_the_engine_goes_on(scene: Scene) -> None:
    began = time.monotonic()
    run(scene, CASES, lambda case, dice: _send(scene, case, "global" if dice.random() < 0.25 else "clinic"))
    print(f"{scene.cases} cases in {time.monotonic() - began:.1f} s: {sorted(scene.statuses.items())}")
    assert not scene.found, _all_faults(scene)
    assert scene.cases >= 0.9 * CASES
    assert scene.statuses[200] + scene.statuses[202] > scene.cases / 4  # cases that are all refused would prove little

    answer = ASK.post(
        f"{scene.server.url}/api/v1/commands?wait=20",
        json=scene.command(50),
        headers=bearer(scene.keys["neighbour"]),
        timeout=30,
    ).json()
    assert (answer["status"], answer["result"]) == ("committed_causal", "applied_once")
    assert scene.server.stop() == 0
    violations: list[Any] = []

    async def check(database: Database) -> None:
        violations.extend(await database.read(verify))

    prepare(scene.server.database_url, check)
    assert violations == []


def _send(scene: Scene, case: Case, key: str) -> None:
    ask(scene, case, scene.keys[key])


def test_a_key_does_nothing_outside_its_scopes_and_an_unsigned_webhook_nothing_at_all(scene: Scene) -> None:
    done: dict[str, set[str]] = {"intake": set(), "secretary": set()}

    scene.pool["rest"] = ["guess"]  # the secret itself may stand in this address

    def send(case: Case, dice: random.Random) -> None:
        name = dice.choice(("intake", "secretary"))
        answer = ask(scene, case, scene.keys[name], signed=False)
        if answer is not None and answer.status_code < 400:
            done[name].add(case.operation.label)

    run(scene, CASES // 5, send)
    assert not scene.found, _all_faults(scene)
    assert done["intake"] - FREE == INTAKE
    assert not done["secretary"] & (INTAKE | ADMIN)
    assert not {label for label in done["secretary"] if "/webhooks/" in label}
    assert len(done["secretary"]) > 20
    operations = [result.ok() for result in scene.schema.get_all_operations()]
    described_as_open = {operation.label for operation in operations if operation.definition.raw.get("security") == []}
    providers = {operation.label for operation in operations if "/webhooks/" in operation.path} - INTAKE
    assert described_as_open == FREE | providers
