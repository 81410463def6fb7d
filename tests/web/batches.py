"""What the tests of replay batches share: asking, acting, waiting for the end."""

from typing import Any

from sqlalchemy import Connection, func, select

from app.store.tables import AppointmentVersion, Lane, ManualTask, table
from tests.web.api_client import CONTACT, Api

PARKED = {"state": ["pending_contingency"]}


async def replay(api: Api, wanted: dict[str, Any], *, dry_run: bool = True, rate: float = 1000, **fields: Any) -> Any:
    answer = await api.call("POST", "/replays", json={"filter": wanted, "dry_run": dry_run, "rate": rate, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def act(api: Api, replay_id: str, what: str, status: int = 200) -> Any:
    answer = await api.call("POST", f"/replays/{replay_id}/{what}")
    assert answer.status_code == status, answer.text
    return answer.json()


async def finished(api: Api, replay_id: str, status: str = "finished") -> Any:
    return await api.once(f"/replays/{replay_id}", lambda b: b["status"] == status and b["ended_at"] is not None)


async def tasks(api: Api) -> list[tuple[str, str]]:
    def read(conn: Connection) -> list[tuple[str, str]]:
        task = table(ManualTask)
        return [(r.cause, r.reason) for r in conn.execute(select(task).order_by(task.c.created_at, task.c.task_id))]

    return await api.services.db.read(read)


async def end_takeover(api: Api) -> None:
    """The conversation goes back to the AI."""
    lane = table(Lane)
    await api.services.db.write(lambda c: c.execute(lane.update().where(lane.c.contact_id == CONTACT).values(takeover_id=None)))


async def versions(api: Api) -> int:
    def read(conn: Connection) -> int:
        return int(conn.execute(select(func.count()).select_from(table(AppointmentVersion))).scalar_one())

    return await api.services.db.read(read)
