"""The manual review page over HTTP, without scripts: tabs, one task, what a secretary does to it."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from app.bootstrap import Services
from app.store.tables import ManualTask, table
from tests.web.api_client import Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in

PAGE = {"accept": "text/html"}


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


@pytest.fixture
async def rita(running_services: Services, api: Api) -> AsyncIterator[Browser]:
    person = await add_person(running_services, "secretary", [api.clinic.tenant_id])
    async with browser_client(app_over(running_services)) as opened:
        yield await sign_in(running_services, opened, person)


async def expired(api: Api, number: int = 1) -> str:
    long_ago = (api.now - timedelta(hours=3)).isoformat()
    late = await api.one(api.command(payload=api.slot(number, f"a-{number}"), occurred_at=long_ago))
    (task,) = [t for t in (await api.get("/manual-tasks"))["items"] if t["command_id"] == late["command_id"]]
    return str(task["task_id"])


async def shown(browser: Browser, **query: str) -> str:
    answer = await browser.client.get("/manual", params=query, headers=PAGE)
    assert answer.status_code == 200
    return answer.text


async def send(browser: Browser, path: str, **form: object) -> httpx.Response:
    return await browser.client.post(path, data={"_csrf": browser.csrf_token, **form}, headers=PAGE)


async def test_a_secretary_finds_an_expired_request_sees_why_and_settles_it(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    page = await shown(rita)
    assert "O pedido chegou há 3 h e o prazo era 2 h." in page
    assert "Sem responsável" in page
    assert (await send(rita, "/manual/act", task_id=task_id, act="claim", rev="1")).status_code == 303
    assert f'value="{task_id}"' in await shown(rita, task=task_id)
    bad = await send(rita, "/manual/act", task_id=task_id, act="resolve", rev="2")
    assert bad.status_code == 400
    done = await send(rita, "/manual/act", task_id=task_id, act="resolve", rev="2", resolution="done_with_family", note="ligado")
    assert done.headers["location"].startswith("/manual?")
    closed = await shown(rita, task=task_id)
    assert "Resolvido com a família" in closed
    assert 'value="reopen"' in closed


async def test_she_carries_it_out_through_the_gate(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    form = {"task_id": task_id, "act": "apply", "rev": "1", "reason": "confirmado por telefone"}
    refused = await send(rita, "/manual/act", **form)
    assert "blocked_unconfirmed" in refused.headers["location"]
    applied = await send(rita, "/manual/act", **{**form, "rev": "2", "confirmed": "on"})
    assert "applied_once" in applied.headers["location"]
    assert (await api.get("/appointments/a-1"))["status"] == "scheduled"
    assert "Executado" in await shown(rita, task=task_id)


async def test_what_changed_meanwhile_is_shown_and_not_overwritten(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    await api.call("POST", f"/manual-tasks/{task_id}/claim")
    late = await send(rita, "/manual/act", task_id=task_id, act="claim", rev="1")
    assert late.status_code == 409
    assert "Nada foi feito" in late.text
    assert f'data-here="/manual?task={task_id}"' in late.text
    assert 'value="resolve"' not in late.text
    assert (await api.get(f"/manual-tasks/{task_id}"))["rev"] == 2  # no second effect


async def test_what_was_typed_into_a_refused_form_is_kept(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    form = {"task_id": task_id, "act": "resolve", "rev": "7", "resolution": "duplicate", "note": "já marcado <ontem>"}
    refused = await send(rita, "/manual/act", **form)
    assert refused.status_code == 409
    assert 'value="já marcado &lt;ontem&gt;" data-kept' in refused.text
    assert '<option value="duplicate" selected>' in refused.text
    assert "O que você escreveu está guardado: já marcado &lt;ontem&gt;" in refused.text
    assert (await api.get(f"/manual-tasks/{task_id}"))["status"] == "open"


async def test_closing_many_asks_first_and_leaves_what_others_hold(api: Api, rita: Browser) -> None:
    ids = [await expired(api, n) for n in (1, 2, 3)]
    await api.call("POST", f"/manual-tasks/{ids[2]}/claim")
    form = {"task": ids, "resolution": "not_needed"}
    assert (await send(rita, "/manual/close", **form)).status_code == 400
    assert len((await api.get("/manual-tasks"))["items"]) == 3
    done = await send(rita, "/manual/close", **form, sure="on")
    assert [t["task_id"] for t in (await api.get("/manual-tasks"))["items"]] == [ids[2]]
    page = (await rita.client.get(done.headers["location"], headers=PAGE)).text
    assert "2 tarefas foram encerradas. 1 ficou como estava:" in page
    assert re.search(r"<li>Maria: está com [^<]+</li>", page)
    assert "Nada foi feito" not in page


async def test_what_was_closed_together_is_seen_and_undone_singly_or_together(api: Api, rita: Browser) -> None:
    ids = [await expired(api, n) for n in (1, 2, 3, 4)]
    await send(rita, "/manual/act", task_id=ids[3], act="apply", rev="1", reason="confirmado", confirmed="on")
    await send(rita, "/manual/close", task=ids[:3], resolution="not_needed", sure="on")
    page = await shown(rita, tab="closed")
    assert all(f'name="task" value="{task_id}"' in page for task_id in ids[:3])
    assert f'id="task_{ids[3]}"' in page  # carried out: seen, not undone
    assert f'name="task" value="{ids[3]}"' not in page
    undone = await send(rita, "/manual/reopen?tab=closed", task=[ids[0], ids[1], ids[3]])
    page = (await rita.client.get(undone.headers["location"], headers=PAGE)).text
    assert "2 tarefas estão abertas de novo. 1 ficou como estava:" in page
    assert "<li>Maria: foi executada</li>" in page
    assert {t["task_id"] for t in (await api.get("/manual-tasks"))["items"]} == {ids[0], ids[1]}
    assert (await send(rita, "/manual/reopen")).status_code == 400
    task = table(ManualTask)
    long_ago = update(task).where(task.c.task_id == ids[2]).values(resolved_at=api.now - timedelta(minutes=11))
    await api.services.db.write(lambda conn: conn.execute(long_ago))
    assert f'name="task" value="{ids[2]}"' not in await shown(rita, tab="closed")
    late = await api.call("POST", "/manual-tasks/reopen", json={"task_ids": [ids[2], "nothing"]})
    assert [entry["reopened"] for entry in late.json()["items"]] == [False, False]


async def test_tasks_of_another_clinic_do_not_exist(api: Api, rita: Browser) -> None:
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    task_id = await expired(stranger)
    assert f'value="{task_id}"' not in await shown(rita, task=task_id)
    assert (await send(rita, "/manual/act", task_id=task_id, act="claim", rev="1")).status_code == 404
    await send(rita, "/manual/close", task=[task_id], resolution="not_needed", sure="on")
    assert (await stranger.get(f"/manual-tasks/{task_id}"))["status"] == "open"


async def test_a_row_that_left_the_list_says_who_settled_it_to_those_who_may_see_it(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    other_id = await expired(stranger)
    await stranger.call("POST", f"/manual-tasks/{other_id}/resolve", json={"resolution": "not_needed"})
    rows = {"row": [f"task_{task_id}", f"task_{other_id}", "task_", "row_x_y", "elsewhere_1"]}
    assert (await rita.client.get("/left", params=rows)).json() == {}
    await send(rita, "/manual/act", task_id=task_id, act="resolve", resolution="not_needed", rev="1")
    said = (await rita.client.get("/left", params=rows)).json()
    assert list(said) == [f"task_{task_id}"]
    assert said[f"task_{task_id}"].startswith("encerrada por Secretary às ")


async def test_the_overview_leads_to_the_task_and_leaves_what_others_have(api: Api, rita: Browser) -> None:
    task_id = await expired(api)
    first = f'class="btn btn-main" href="/manual?task={task_id}"'
    assert first in (await rita.client.get("/", headers=PAGE)).text
    assert (await api.call("POST", f"/manual-tasks/{task_id}/claim")).is_success
    page = (await rita.client.get("/", headers=PAGE)).text
    assert f"/manual?task={task_id}" not in page
    assert "Nada precisa de você" in page
