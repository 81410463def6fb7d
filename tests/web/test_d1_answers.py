"""What a family answers the day before (F-03) belongs to the appointment it was asked about, or to a person; never to another."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest
from sqlalchemy import Connection, select, update

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.d1_texts import which
from app.engine.d1 import D1
from app.store.bulk import insert_rows
from app.store.tables import Appointment, Outbox, table
from tests.web.api_client import CONTACT, PATIENT, THERAPIST, Api, open_api
from tests.web.safe_mode_driver import deliver, hear, send, serve

OUTBOX, APPOINTMENT = table(Outbox), table(Appointment)
ZONE = ZoneInfo("America/Sao_Paulo")
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite; where new statements are read (`BOTH`) PostgreSQL as well."""
    url: str = request.getfixturevalue("postgres_url" if getattr(request, "param", "sqlite") == "postgresql" else "sqlite_url")
    return url


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


def local(hour: int, minute: int = 0, day: int = 24) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=ZONE).astimezone(UTC)


async def ask(api: Api, clock: ManualClock, *starts: datetime) -> list[dict[str, str]]:
    """Appointments a-0, a-1, ... that stand since long ago, asked about; per question its buttons' ids and its message's id."""
    rows = [
        {
            "tenant_id": api.clinic.tenant_id,
            "appointment_id": f"a-{n}",
            "patient_id": PATIENT,
            "therapist_id": THERAPIST if n == 0 else f"t-{n}",
            "start_at": start_at,
            "end_at": start_at + timedelta(minutes=50),
            "status": "scheduled",
            "version": 1,
            "as_of": start_at - timedelta(days=30),
        }
        for n, start_at in enumerate(starts)
    ]
    await api.services.db.write(insert_rows, APPOINTMENT, rows)
    clock.set(local(9))
    await D1(api.services.db, clock).tick()
    await deliver(api)
    found = []
    for row in (await sent(api, "ask"))[: len(starts)]:
        yes, no = (b["id"] for b in msgspec.json.decode(row.body_json)["buttons"])
        found.append({"yes": yes, "no": no, "message": row.provider_message_id, "about": row.correlation_id})
    return sorted(found, key=lambda q: q["about"])


async def sent(api: Api, step: str) -> list[Any]:
    def read(conn: Connection) -> list[Any]:
        return list(conn.execute(select(OUTBOX).where(OUTBOX.c.step == step).order_by(OUTBOX.c.created_at)))

    return await api.services.db.read(read)


async def say(api: Api, text: str, **payload: str) -> None:
    """The family writes, and everything that follows is done."""
    await hear(api, payload={"text": text, **payload})
    await api.services.conversations.tick()
    await serve(api)
    await deliver(api)


async def stands(api: Api) -> list[str]:
    def read(conn: Connection) -> list[str]:
        return list(conn.execute(select(APPOINTMENT.c.status).order_by(APPOINTMENT.c.appointment_id)).scalars())

    return await api.services.db.read(read)


async def with_a_person(api: Api) -> str | None:
    """Why a person has the conversation; None while nobody has it."""
    found = (await api.get("/tickets", kind="takeover"))["items"]
    return found[0]["reason"] if found else None


TWO = (local(10, day=25), local(14, day=25))


@BOTH
async def test_a_button_confirms_the_appointment_under_whose_question_it_stands(api: Api, manual_clock: ManualClock) -> None:
    questions = await ask(api, manual_clock, *TWO)
    await say(api, "Confirmo", button_id=questions[1]["yes"])
    assert await stands(api) == ["scheduled", "confirmed"]
    await say(api, "CONFIRMAR")  # one is left: no doubt
    assert await stands(api) == ["confirmed", "confirmed"]
    assert await with_a_person(api) is None


async def test_two_buttons_that_are_heard_together_confirm_both(api: Api, manual_clock: ManualClock) -> None:
    questions = await ask(api, manual_clock, *TWO)
    await hear(api, payload={"text": "Confirmo", "button_id": questions[0]["yes"]})
    await say(api, "Confirmo", button_id=questions[1]["yes"])
    assert await stands(api) == ["confirmed", "confirmed"]


@BOTH
async def test_an_answer_to_a_message_is_about_that_message(api: Api, manual_clock: ManualClock) -> None:
    questions = await ask(api, manual_clock, *TWO)
    await say(api, "confirmado", reply_to=questions[1]["message"])
    assert await stands(api) == ["scheduled", "confirmed"]


@BOTH
async def test_a_bare_word_with_two_open_questions_is_asked_back_once(api: Api, manual_clock: ManualClock) -> None:
    await ask(api, manual_clock, *TWO)
    await say(api, "CONFIRMAR")
    assert await stands(api) == ["scheduled", "scheduled"]
    (back,) = await sent(api, "which")
    body = msgspec.json.decode(back.body_json)
    assert back.status == "sent"
    assert "quarta-feira, 25/11 às 10:00; quarta-feira, 25/11 às 14:00" in body["text"]
    assert [b["title"] for b in body["buttons"]] == ["25/11 às 10:00", "25/11 às 14:00"]
    await say(api, "25/11 às 14:00", button_id=body["buttons"][1]["id"])
    assert await stands(api) == ["scheduled", "confirmed"]
    assert await with_a_person(api) is None


async def test_who_cannot_say_which_gets_a_person(api: Api, manual_clock: ManualClock) -> None:
    await ask(api, manual_clock, *TWO)
    await say(api, "CONFIRMAR")
    await say(api, "CONFIRMAR")
    assert await stands(api) == ["scheduled", "scheduled"]
    assert await with_a_person(api) == "d1_unclear"
    assert len(await sent(api, "which")) == 1


async def test_two_children_at_one_time_are_a_persons_to_tell_apart(api: Api, manual_clock: ManualClock) -> None:
    await ask(api, manual_clock, TWO[0], TWO[0])
    await say(api, "CONFIRMAR")
    assert await with_a_person(api) == "d1_unclear"
    assert await sent(api, "which") == []


async def test_a_no_without_saying_which_goes_to_a_person_and_cancels_nothing(api: Api, manual_clock: ManualClock) -> None:
    await ask(api, manual_clock, *TWO)
    await say(api, "Não vamos poder", button_id="d1:no")
    assert await with_a_person(api) == "d1_unclear"
    assert await stands(api) == ["scheduled", "scheduled"]


@pytest.mark.parametrize(
    ("changed", "word", "why"),
    [
        ({"status": "confirmed"}, "yes", None),
        ({"status": "confirmed"}, "no", "d1_outdated"),
        ({"status": "cancelled"}, "no", None),
        ({"status": "cancelled"}, "yes", "d1_outdated"),
        ({"start_at": local(16, day=26), "end_at": local(17, day=26)}, "yes", "d1_outdated"),
    ],
)
async def test_an_answer_that_its_appointment_has_outlived_confirms_nothing_else(
    api: Api, manual_clock: ManualClock, changed: dict[str, Any], word: str, why: str | None
) -> None:
    questions = await ask(api, manual_clock, *TWO)
    first = update(APPOINTMENT).where(APPOINTMENT.c.appointment_id == "a-0").values(**changed)
    await api.services.db.write(lambda conn: conn.execute(first))
    await say(api, "toque", button_id=questions[0][word])
    assert (await stands(api))[1] == "scheduled"
    assert await with_a_person(api) == why


async def test_an_unanswered_question_of_last_week_takes_no_answer(api: Api, manual_clock: ManualClock) -> None:
    await ask(api, manual_clock, *TWO)
    manual_clock.set(local(12, day=25))  # the first appointment has begun
    await say(api, "CONFIRMAR")
    assert await stands(api) == ["scheduled", "confirmed"]


async def test_a_word_for_a_proposal_stays_the_proposals(api: Api, manual_clock: ManualClock) -> None:
    """The button under a question answers that question even while a proposal is open."""
    (question,) = await ask(api, manual_clock, TWO[0])
    await send(api, api.command(payload=api.slot(40, "a-9"), confirmed_by_contact=False))
    await serve(api)
    await say(api, "Confirmo", button_id=question["yes"])
    assert await stands(api) == ["confirmed"]


def test_asking_back_needs_buttons_that_can_be_told_apart() -> None:
    four = [(f"t{n}", local(8 + n)) for n in range(4)]
    assert which(four, "America/Sao_Paulo") is None
    made = which(four[:3], "America/Sao_Paulo")
    assert made is not None
    assert [len(b["title"]) <= 20 for b in made["buttons"]] == [True] * 3  # type: ignore[attr-defined]
    assert CONTACT not in str(made)
