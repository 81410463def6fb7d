"""`GET /stream` over real HTTP: whoever is signed in hears of their own clinics, for as long as the session is good."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Connection, delete

from app.__main__ import _Server
from app.bootstrap import Services
from app.store import accounts
from app.store.events import publish
from app.store.people import By, put_contact
from app.store.tables import UserTenant, table
from app.web import stream as module
from app.web.app import create_app
from app.web.security import session_csrf
from tests.services import free_port
from tests.web.conftest import SECRET_KEY, Browser, Clinic, Person, add_key, add_person, add_tenant, sign_in

LIMIT_S = 30.0
"""For what never comes."""
LINGER_S = 20
"""How long a server waits for streams that do not end."""


@dataclass
class Site:
    """The application behind a real port, with its engine running."""

    services: Services
    server: uvicorn.Server
    url: str
    serving: "asyncio.Task[None]"

    async def browser(self, person: Person) -> Browser:
        """Somebody who is signed in."""
        client = httpx.AsyncClient(base_url=self.url, timeout=LIMIT_S, trust_env=False)
        browser = await sign_in(self.services, client, person)
        client.headers["Cookie"] = f"kora_session={client.cookies['kora_session']}"  # whatever the host is called
        client.cookies.clear()
        return browser


@pytest.fixture
async def site(running_services: Services) -> AsyncIterator[Site]:
    """A server of its own; at the end it stops as the process does."""
    port = free_port()
    config = uvicorn.Config(
        create_app(running_services),
        host="127.0.0.1",
        port=port,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=LINGER_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(LIMIT_S):
        while not server.started:  # uvicorn has no event for it
            await asyncio.sleep(0.01)
    yield Site(running_services, server, f"http://127.0.0.1:{port}", serving)
    running_services.hub.drain()
    server.should_exit = True
    await serving


class Stream:
    """One open stream, message by message."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self, *kinds: str) -> tuple[str, int, Any]:
        """The next message of one of the kinds: kind, position, data; what is only about the node itself is left out."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(LIMIT_S):
            async for line in self._lines:
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                if fields.get("event") in kinds:
                    data = json.loads(fields["data"])
                    if "changes" in data:
                        data["changes"] = [change for change in data["changes"] if change["topic"] != "overview"]
                    if data.get("changes") != []:
                        return fields["event"], int(fields.get("id", -1)), data
                fields = {}
        raise AssertionError(f"the stream ended without {kinds}")

    async def rest(self) -> list[str]:
        """Everything until the stream ends."""
        async with asyncio.timeout(LIMIT_S):
            return [line async for line in self._lines]


@asynccontextmanager
async def opened(browser: Browser, **options: Any) -> AsyncIterator[Stream]:
    """The stream as the browser's EventSource opens it."""
    headers = {"Accept": "text/event-stream", **options.pop("headers", {})}
    async with browser.client.stream("GET", "/stream", headers=headers, **options) as answer:
        assert answer.status_code == 200
        yield Stream(answer)


@pytest.fixture
async def clinic(running_services: Services) -> Clinic:
    """The secretary's clinic."""
    return await add_tenant(running_services, "clinica-aurora")


@pytest.fixture
async def secretary(site: Site, clinic: Clinic) -> AsyncIterator[Browser]:
    """A signed-in secretary of `clinic`."""
    browser = await site.browser(await add_person(site.services, "secretary", [clinic.tenant_id]))
    yield browser
    await browser.client.aclose()


async def tell(site: Site, tenant_id: str | None, topic: str, *refs: str) -> None:
    """A change, committed."""
    await site.services.db.write(publish, tenant_id, topic, refs, site.services.clock.now())
    site.services.hub.wake()


async def test_strangers_and_keys_get_no_stream(site: Site, clinic: Clinic) -> None:
    key = await add_key(site.services, clinic.tenant_id)
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as stranger:
        for headers in ({}, key, {"Cookie": "kora_session=nonsense"}):
            answer = await stranger.get("/stream", headers={"Accept": "text/event-stream", **headers})
            assert answer.status_code == 401
    assert site.services.hub.clients == 0


async def test_the_answer_is_an_event_stream_that_nobody_stores(secretary: Browser) -> None:
    async with opened(secretary) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["cache-control"] == "no-store"
        assert "content-encoding" not in stream.answer.headers
        assert "default-src 'none'" in stream.answer.headers["content-security-policy"]
        kind, position, data = await stream.next("reset", "hello")
        assert kind == "reset"  # it said nothing of what it knows
        assert data["rev"] == position


async def test_a_secretary_hears_of_her_clinic_and_of_nothing_else(site: Site, clinic: Clinic, secretary: Browser) -> None:
    other = await add_tenant(site.services, "clinica-vizinha")
    admin = await site.browser(await add_person(site.services, "superadmin", ()))
    async with opened(secretary) as hers, opened(admin) as all_of_it:
        await hers.next("reset")
        await all_of_it.next("reset")
        await tell(site, other.tenant_id, "queue", "c-theirs")
        _, _, data = await all_of_it.next("nudge")
        assert data["changes"] == [{"tenant": other.tenant_id, "topic": "queue", "refs": ["c-theirs"]}]
        await tell(site, clinic.tenant_id, "queue", "c-hers")
        _, _, data = await hers.next("nudge")
        assert data["changes"] == [{"tenant": clinic.tenant_id, "topic": "queue", "refs": ["c-hers"]}]
    await admin.client.aclose()


@pytest.mark.parametrize("how", ["header", "address"])
async def test_a_browser_resumes_behind_its_position(site: Site, clinic: Clinic, secretary: Browser, how: str) -> None:
    async with opened(secretary) as stream:
        await tell(site, clinic.tenant_id, "queue", "c-1")
        _, position, _ = await stream.next("nudge")
    await tell(site, clinic.tenant_id, "queue", "c-2")
    given: dict[str, Any] = (
        # the browser's own header is newer than the address it once opened
        {"headers": {"Last-Event-ID": str(position)}, "params": {"since": "0"}}
        if how == "header"
        else {"params": {"since": position}}
    )
    async with opened(secretary, **given) as stream:
        kind, _, _ = await stream.next("hello", "reset")
        assert kind == "hello"
        _, _, data = await stream.next("nudge")
        assert data["changes"][0]["refs"] == ["c-2"]


@pytest.mark.parametrize("since", ["-1", "x", "9" * 30, "١٢", "1e3", ""])
async def test_a_position_that_is_none_is_a_reset(secretary: Browser, since: str) -> None:
    async with opened(secretary, params={"since": since}) as stream:
        assert (await stream.next("hello", "reset"))[0] == "reset"


async def test_signing_out_ends_the_stream_at_once(site: Site, secretary: Browser) -> None:
    async with opened(secretary) as stream, opened(secretary) as second:
        await stream.next("reset")
        await second.next("reset")
        loop = asyncio.get_running_loop()
        began = loop.time()
        form = {"_csrf": session_csrf(SECRET_KEY, secretary.session_hash)}
        answer = await secretary.client.post("/logout", data=form)
        assert answer.status_code == 303
        for one in (stream, second):
            assert (await one.next("bye"))[2] == {"reason": "session"}
            assert [line for line in await one.rest() if line] == []
        assert loop.time() - began < module.RECHECK_S / 4, "a stream looked by itself whether its session is still good"
    assert (await secretary.client.get("/stream", headers={"Accept": "text/event-stream"})).status_code == 401


@pytest.mark.parametrize("what", ["session", "person", "role", "clinics"])
async def test_a_stream_ends_when_its_session_or_what_it_may_see_does(
    site: Site, clinic: Clinic, secretary: Browser, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module, "RECHECK_S", 0.1)
    db, user_id, now = site.services.db, secretary.person.user_id, site.services.clock.now()
    async with opened(secretary) as stream:
        await stream.next("reset")
        await asyncio.sleep(0.3)  # a few checks find nothing wrong
        await tell(site, clinic.tenant_id, "queue", "c-1")
        await stream.next("nudge")
        if what == "session":
            await db.write(accounts.end_session, secretary.session_hash)
        elif what == "role":
            await db.write(accounts.set_role, user_id, "manager")
        elif what == "person":
            await db.write(accounts.set_disabled, user_id, now)
        else:
            await db.write(_take_clinics, user_id)
        assert (await stream.next("bye"))[2] == {"reason": "session"}


async def test_a_browser_that_goes_away_is_forgotten(site: Site, secretary: Browser) -> None:
    async with opened(secretary) as stream:
        await stream.next("reset")
        assert site.services.hub.clients == 1
        assert site.services.metrics.stream_clients._value.get() == 1
    async with asyncio.timeout(LIMIT_S):
        while site.services.hub.clients:  # the server notices by itself
            await asyncio.sleep(0.01)
    assert site.services.metrics.stream_clients._value.get() == 0


async def test_draining_ends_open_streams_and_the_server_at_once(site: Site, secretary: Browser) -> None:
    async with opened(secretary) as first, opened(secretary) as second:
        await first.next("reset")
        await second.next("reset")
        loop = asyncio.get_running_loop()
        began = loop.time()
        site.services.hub.drain()
        site.server.should_exit = True
        assert (await first.next("bye"))[2] == {"reason": "shutdown"}
        assert (await second.next("bye"))[2] == {"reason": "shutdown"}
        await site.serving
        assert loop.time() - began < LINGER_S / 4, "the server waited for its streams"


async def test_state_fragments_have_nobodys_name_in_them(site: Site, clinic: Clinic, secretary: Browser) -> None:
    by = By(actor="system:test", now=site.services.clock.now())
    await site.services.db.write(put_contact, clinic.tenant_id, "c-maria", phone="+5511987654321", name="Maria", by=by)
    async with opened(secretary) as stream:
        _, _, data = await stream.next("state")
        assert {"banner", "queue_count", "numbers"} <= set(data["fragments"])
        assert data["scope"] == clinic.tenant_id
        assert "Maria" not in json.dumps(data)
        assert secretary.person.email not in json.dumps(data)


def _take_clinics(conn: Connection, user_id: str) -> None:
    members = table(UserTenant)
    conn.execute(delete(members).where(members.c.user_id == user_id))
