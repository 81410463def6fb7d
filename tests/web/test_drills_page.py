"""The drills page over HTTP: whether a drill can be run here at all, and what ended runs came to."""

import pytest
from sqlalchemy import Connection, update

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.nodes import beat
from app.store.tables import Drill, table
from tests.engine.signal_world import drill
from tests.web.conftest import Browser, Clinic

pytestmark = pytest.mark.story("S-PC-05-002")

PAGE = {"accept": "text/html"}
FORM = 'action="/drills/start"'


async def shown(viewer: Browser) -> str:
    answer = await viewer.client.get("/drills", headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_without_redis_there_is_nothing_to_cut_and_the_page_says_so(
    admin_session: Browser, services: Services, tenant: Clinic
) -> None:
    await services.db.write(beat, "n1", "database", "{}", services.clock.now())
    page = await shown(admin_session)
    assert "Esta instalação roda sem Redis" in page
    assert FORM not in page
    asked = {"reason": "ensaio", "sure": "on", "_csrf": admin_session.csrf_token}
    refused = await admin_session.client.post("/drills/start", data=asked, headers=admin_session.headers | PAGE)
    assert refused.status_code == 409

    await services.db.write(beat, "n2", "primary", "{}", services.clock.now())
    page = await shown(admin_session)
    assert "Esta instalação roda sem Redis" not in page
    assert FORM in page


async def test_ended_runs_are_listed_with_what_they_measured(
    admin_session: Browser, services: Services, tenant: Clinic, manual_clock: ManualClock
) -> None:
    def run(conn: Connection) -> None:
        drill(conn, manual_clock.now(), recovery_s=5.1)
        measures = '{"detection_s": 0.006, "recovery_s": 5.1, "invalid_side_effects": 0}'
        conn.execute(update(table(Drill)).values(result="drill_passed_controlled_continuity", measures_json=measures))

    assert "Nenhuma simulação foi feita ainda." in await shown(admin_session)
    await services.db.write(run)
    page = await shown(admin_session)
    for text in ("Passou", "0.006 s", "5.1 s"):
        assert text in page, text
    assert "Nenhuma simulação foi feita ainda." not in page
